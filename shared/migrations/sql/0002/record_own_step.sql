-- `record_step` for a sandbox, inside the transaction whose effects the step stands for: both are committed, or neither.
-- Whose run and which attempt it is follows from the verified token alone. See `run_user` for why it states a user.
--
-- Answers    as `record_step`.
CREATE FUNCTION record_own_step(p_name text, p_result json) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
DECLARE
    part text[] := string_to_array(current_setting('lanewise.token', true), '.');
    claimed text := run_user();
    answer text;
BEGIN
    IF claimed IS NULL THEN
        RETURN 'superseded';
    END IF;
    IF char_length(p_name) NOT BETWEEN 1 AND 500 OR octet_length(p_result::text) > 1049600 THEN
        RAISE EXCEPTION 'a step has a name of 1 to 500 characters and a result of at most 1049600 bytes';
    END IF;
    PERFORM set_config('lanewise.user', claimed, true);
    answer := record_step(claimed, part[2], part[3]::integer, p_name, p_result);
    PERFORM set_config('lanewise.user', '', true);
    RETURN answer;
END $$;
