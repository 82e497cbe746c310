-- Ends a run: its last events, its state and result.
--
-- p_attempt  the attempt that ends it; another one writes nothing
-- p_from     the state that the caller takes it to be in
-- p_to       one of the four ends
-- p_events   as for append_events, the last one being the terminal event
-- Answers    the stored events' numbers; no row if the attempt was superseded or the run has ended.
CREATE FUNCTION end_run(
    p_user text, p_run text, p_attempt integer, p_from text, p_to text, p_output jsonb, p_error jsonb, p_events jsonb
) RETURNS TABLE (
    n integer, seq bigint, run_seq integer, at timestamptz, thread_id text, correlation_id text
)
LANGUAGE plpgsql SET search_path = lanewise AS $$
#variable_conflict use_column
DECLARE
    took double precision;
BEGIN
    -- The state is checked under the run's lock, before anything is written.
    PERFORM FROM runs r
    WHERE r.user_id = p_user AND r.id = p_run AND r.attempt = p_attempt AND r.status = p_from FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT e.* FROM append_events(p_events) e;
    UPDATE runs r SET
        status = p_to, finished_at = clock_timestamp(), worker_id = NULL, output = p_output, error = p_error,
        progress = CASE WHEN p_to = 'completed' THEN 1 ELSE r.progress END,
        ran_s = CASE WHEN p_from = 'running'
            THEN r.ran_s + extract(epoch FROM clock_timestamp() - r.claimed_at) ELSE r.ran_s END
    WHERE r.user_id = p_user AND r.id = p_run
    RETURNING r.ran_s INTO took;
    IF p_from = 'running' THEN -- what is told of the queue reckons with it; append_events has locked the stream's row
        UPDATE user_streams s SET run_s = coalesce(s.run_s * 0.8 + took * 0.2, took) WHERE s.user_id = p_user;
    END IF;
END $$;
