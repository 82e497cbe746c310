-- Stores `run_position` events for those of a user's first ten parked runs whose place has changed since they were told;
-- at most once a second, so that a queue that moves fast does not fill the log.
--
-- p_slots  the limit of a user who has none of their own
-- Answers  the stored events
CREATE FUNCTION tell_positions(p_user text, p_slots integer) RETURNS TABLE (
    run_id text, attempt integer, agent text, data jsonb,
    seq bigint, run_seq integer, at timestamptz, thread_id text, correlation_id text
)
LANGUAGE plpgsql SET search_path = lanewise AS $$
#variable_conflict use_column
DECLARE
    first text[] := ARRAY(SELECT q.id FROM queue_places(p_user, NULL, p_slots) q);
    news jsonb;
BEGIN
    -- Locked by id, as everywhere; what the rows then say is what is told. Others may be among the first by then: they are
    -- told the next time, for to lock them now would be out of order.
    PERFORM FROM runs r WHERE r.user_id = p_user AND r.id = ANY (first) ORDER BY r.id FOR NO KEY UPDATE;
    IF EXISTS (SELECT FROM user_streams s
        WHERE s.user_id = p_user AND s.positions_at > clock_timestamp() - interval '1 second') THEN
        RETURN;
    END IF;
    WITH moved AS (
        UPDATE runs r SET position_told = q.place FROM queue_places(p_user, first, p_slots) q
        WHERE r.user_id = p_user AND r.id = q.id AND q.place <= 10 AND r.status = 'queued' AND r.granted_at IS NULL
            AND r.position_told IS DISTINCT FROM q.place
        RETURNING r.id, r.attempt, r.agent, q.place, q.reason, q.eta_s
    )
    SELECT jsonb_agg(jsonb_build_object(
        'n', m.place, 'user_id', p_user, 'run_id', m.id, 'attempt', m.attempt, 'type', 'run_position', 'agent', m.agent,
        'data', jsonb_build_object('position', m.place, 'reason', m.reason, 'eta_s', m.eta_s)) ORDER BY m.place)
    INTO news FROM moved m;
    IF news IS NULL THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT e ->> 'run_id', (e ->> 'attempt')::integer, e ->> 'agent', e -> 'data',
        a.seq, a.run_seq, a.at, a.thread_id, a.correlation_id
    FROM append_events(news) a JOIN jsonb_array_elements(news) e ON (e ->> 'n')::integer = a.n
    ORDER BY a.seq;
    UPDATE user_streams s SET positions_at = clock_timestamp() WHERE s.user_id = p_user;
END $$;
