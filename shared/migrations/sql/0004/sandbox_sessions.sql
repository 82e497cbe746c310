-- The sessions of the sandboxes' login in this database that come from the address which the caller's own session comes
-- from. It runs as the owner, who is a member of that login for this alone: else nobody sees from where a session comes.
-- Of logins that the owner is no member of there is nothing to see; roles that may be the owner are no sandboxes.
CREATE FUNCTION sandbox_sessions() RETURNS TABLE (pid integer, started timestamptz, address text, port integer)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
    SELECT a.pid, a.backend_start, host(a.client_addr), a.client_port
    FROM pg_stat_activity a
    WHERE a.datname = current_database() AND a.client_addr = inet_client_addr()
      AND pg_has_role(a.usesysid, 'lanewise_run', 'MEMBER') AND NOT pg_has_role(a.usesysid, 'lanewise_owner', 'MEMBER')
$$;
