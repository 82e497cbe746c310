-- Makes a queued run a worker's: raises `attempt`, which is the fence from now on, and stores `run_started`.
--
-- p_attempt  the attempt that the message was sent for; another one means that somebody else was faster
-- p_agents   the agents that the worker has
-- p_context  the context in the message; it has to be the stored one
-- Answers    the run as JSON with its event's numbers, and the tools that its user has a grant for; no row if the message is stale, doubled or forged.
CREATE OR REPLACE FUNCTION claim_run(
    p_user text, p_run text, p_attempt integer, p_worker text, p_agents text[], p_context jsonb
) RETURNS TABLE (run jsonb, seq bigint, run_seq integer, at timestamptz, granted text[])
LANGUAGE plpgsql SET search_path = lanewise AS $$
#variable_conflict use_column
DECLARE
    claimed runs;
    moment timestamptz := clock_timestamp();
BEGIN
    UPDATE runs r SET
        status = 'running', attempt = r.attempt + 1, worker_id = p_worker, claimed_at = moment,
        started_at = coalesce(r.started_at, moment), not_before = NULL, position_told = NULL, emitted = 0
    WHERE r.user_id = p_user AND r.id = p_run AND r.attempt = p_attempt AND r.status = 'queued'
        AND r.granted_at IS NOT NULL AND r.agent = ANY (p_agents) AND r.context = p_context
    RETURNING r.* INTO claimed;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    RETURN QUERY SELECT to_jsonb(claimed), e.seq, e.run_seq, e.at, ARRAY(
            SELECT g.tool FROM tool_grants g
            WHERE g.user_id = p_user AND (g.expires_at IS NULL OR g.expires_at > moment) ORDER BY g.tool)
        FROM append_events(jsonb_build_array(jsonb_build_object(
        'n', 0, 'user_id', p_user, 'run_id', p_run, 'attempt', claimed.attempt, 'type', 'run_started',
        'agent', claimed.agent, 'data', jsonb_build_object('attempt', claimed.attempt)))) e;
END $$;
