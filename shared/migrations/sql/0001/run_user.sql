-- Whose rows a sandbox's session may see. It runs as the owner, whom row level security binds too (FORCE): for the one
-- look at `runs` it states the user that the verified token names. The caller's own settings count for nothing but
-- `lanewise.token`, and a token that was cut, forged, expired, superseded or ended names nobody.
CREATE FUNCTION run_user() RETURNS text
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
DECLARE
    part text[] := string_to_array(current_setting('lanewise.token', true), '.');
    body bytea;
    claimed text;
    present boolean;
BEGIN
    IF part IS NULL OR cardinality(part) <> 5 THEN
        RETURN NULL;
    END IF;
    body := convert_to(array_to_string(part[1:4], '.'), 'UTF8');
    -- Hashing both sides again makes the time of the comparison tell nothing about the right value.
    PERFORM FROM token_keys
      WHERE sha256(convert_to(encode(sha256(outer_pad || sha256(inner_pad || body)), 'hex'), 'UTF8'))
          = sha256(convert_to(part[5], 'UTF8'));
    IF NOT FOUND OR part[4]::bigint < extract(epoch FROM clock_timestamp()) THEN
        RETURN NULL;
    END IF;
    claimed := convert_from(decode(part[1], 'hex'), 'UTF8');
    PERFORM set_config('lanewise.user', claimed, true);
    present := EXISTS (
        SELECT FROM runs
        WHERE user_id = claimed AND id = part[2] AND attempt = part[3]::integer AND status = 'running'
    );
    PERFORM set_config('lanewise.user', '', true);
    RETURN CASE WHEN present THEN claimed END;
END $$;
REVOKE ALL ON FUNCTION run_user() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION run_user() TO lanewise_run;
