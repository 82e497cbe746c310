-- Whether the owner may see and end the sessions of every login that sandboxes can have; see shared/migrate.py.
--
-- Answers   one row: may_end
SELECT coalesce(bool_and(pg_has_role('lanewise_owner', oid, 'USAGE')), false) AS may_end
FROM pg_roles
WHERE rolcanlogin AND pg_has_role(oid, 'lanewise_run', 'MEMBER') AND NOT pg_has_role(oid, 'lanewise_owner', 'MEMBER')
