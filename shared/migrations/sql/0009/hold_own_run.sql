-- Before a sandbox stores passages it holds off whoever wants to end its attempt until the commit, as `record_step` does:
-- so a superseded attempt never stores any. See `run_user` for why it states a user; without a token the policies decide.
CREATE FUNCTION hold_own_run() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
DECLARE
    part text[] := string_to_array(current_setting('lanewise.token', true), '.');
    claimed text := run_user();
    held boolean;
BEGIN
    IF claimed IS NOT NULL THEN
        PERFORM set_config('lanewise.user', claimed, true);
        PERFORM FROM runs r
        WHERE r.user_id = claimed AND r.id = part[2] AND r.attempt = part[3]::integer AND r.status = 'running'
        FOR KEY SHARE;
        held := FOUND;
        PERFORM set_config('lanewise.user', '', true);
        IF NOT held THEN
            RAISE insufficient_privilege USING MESSAGE = 'the attempt was superseded';
        END IF;
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION hold_own_run() FROM PUBLIC;
