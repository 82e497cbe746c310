-- Records the result of a step of a run, once. The lock on the run holds off whoever wants to end this attempt until the
-- commit: so a step of a superseded attempt is never recorded.
--
-- p_attempt  the attempt that made the step; another one writes nothing
-- p_result   JSON, kept as the text it is, so that it is read back exactly as it was returned
-- Answers    `recorded`; `known`: there is one of that name, it stays; `superseded`; `full`: the run has 1,000 steps or would
--            have more than 64 MiB of results.
CREATE FUNCTION record_step(p_user text, p_run text, p_attempt integer, p_name text, p_result json) RETURNS text
LANGUAGE plpgsql SET search_path = lanewise AS $$
DECLARE
    steps integer;
    bytes bigint;
BEGIN
    PERFORM FROM runs r
    WHERE r.user_id = p_user AND r.id = p_run AND r.attempt = p_attempt AND r.status = 'running' FOR KEY SHARE;
    IF NOT FOUND THEN
        RETURN 'superseded';
    END IF;
    IF EXISTS (SELECT FROM run_steps s WHERE s.user_id = p_user AND s.run_id = p_run AND s.name = p_name) THEN
        RETURN 'known';
    END IF;
    SELECT count(*), coalesce(sum(s.size), 0) INTO steps, bytes
    FROM run_steps s WHERE s.user_id = p_user AND s.run_id = p_run;
    IF steps >= 1000 OR bytes + octet_length(p_result::text) > 64 * 1024 * 1024 THEN
        RETURN 'full';
    END IF;
    INSERT INTO run_steps (user_id, run_id, name, attempt, size, result)
    VALUES (p_user, p_run, p_name, p_attempt, octet_length(p_result::text), p_result) ON CONFLICT DO NOTHING;
    RETURN CASE WHEN FOUND THEN 'recorded' ELSE 'known' END;
END $$;
