-- Saves what an agent remembers, if nobody saved since it was read.
--
-- p_attempt   the attempt that saves; another one writes nothing
-- p_of_run    whether it belongs to the run; else to its thread, and to the next run of it
-- p_expected  the version that was read, 0 for none
-- p_token     names this save; repeated because its answer was lost, it is answered like the first time
-- Answers     the new version; -1: superseded; null: somebody else saved meanwhile.
CREATE FUNCTION save_state(
    p_user text, p_run text, p_attempt integer, p_agent text, p_of_run boolean, p_expected bigint, p_value json, p_token text
) RETURNS bigint
LANGUAGE plpgsql SET search_path = lanewise AS $$
DECLARE
    thread text;
    scope text := CASE WHEN p_of_run THEN p_run ELSE '' END;
    made bigint;
BEGIN
    SELECT r.thread_id INTO thread FROM runs r
    WHERE r.user_id = p_user AND r.id = p_run AND r.attempt = p_attempt AND r.status = 'running' FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN -1;
    END IF;
    IF p_expected = 0 THEN
        INSERT INTO agent_state (user_id, thread_id, agent, run_id, version, value, saved_by)
        VALUES (p_user, thread, p_agent, scope, 1, p_value, p_token)
        ON CONFLICT DO NOTHING RETURNING version INTO made;
    ELSE
        UPDATE agent_state s SET version = s.version + 1, value = p_value, saved_by = p_token, saved_at = clock_timestamp()
        WHERE s.user_id = p_user AND s.thread_id = thread AND s.agent = p_agent AND s.run_id = scope
            AND s.version = p_expected
        RETURNING s.version INTO made;
    END IF;
    IF made IS NULL THEN
        SELECT s.version INTO made FROM agent_state s
        WHERE s.user_id = p_user AND s.thread_id = thread AND s.agent = p_agent AND s.run_id = scope
            AND s.version = p_expected + 1 AND s.saved_by = p_token;
    END IF;
    RETURN made;
END $$;
