-- As in 0008, and it holds the run until the commit, as `hold_own_run` does for what is stored.
CREATE OR REPLACE FUNCTION clear_own_passages(p_document text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
DECLARE
    part text[] := string_to_array(current_setting('lanewise.token', true), '.');
    claimed text := run_user();
BEGIN
    PERFORM set_config('lanewise.user', coalesce(claimed, ''), true);
    PERFORM FROM runs r
    WHERE r.user_id = claimed AND r.id = part[2] AND r.attempt = part[3]::integer AND r.status = 'running'
    FOR KEY SHARE;
    IF FOUND THEN
        DELETE FROM document_passages WHERE user_id = claimed AND document = p_document;
    END IF;
    PERFORM set_config('lanewise.user', '', true);
END $$;
