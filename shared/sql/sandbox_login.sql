-- What a login of sandboxes may do though it must not.
--
-- login     its name
-- limit     the most connections that it may have
-- Answers   may: what, to be read after "sandboxes may"
SELECT format('%s, by %s functions such as %s', wall.may, count(*), min(p.proname)) AS may
FROM pg_proc p
JOIN (VALUES (:see, 'see other sessions'), (:end, 'end sessions of other sandboxes'), (:lock, 'take advisory locks'),
        (:large, 'make large objects'), (:wal, 'fill the write-ahead log')) AS wall (names, may)
    ON p.proname ~ wall.names
WHERE p.pronamespace = CAST('pg_catalog' AS regnamespace) AND has_function_privilege(:login, p.oid, 'EXECUTE')
GROUP BY wall.may
UNION ALL
SELECT 'make temporary tables and functions'
WHERE has_database_privilege(:login, current_database(), 'TEMPORARY')
UNION ALL
SELECT format('make tables and functions in the schemas %s', string_agg(nspname, ', ' ORDER BY nspname))
FROM pg_namespace WHERE nspname !~ '^pg_' AND has_schema_privilege(:login, oid, 'CREATE')
HAVING count(*) > 0
UNION ALL
SELECT format('connect to the databases %s', string_agg(datname, ', ' ORDER BY datname))
FROM pg_database
WHERE datallowconn AND datname <> current_database() AND has_database_privilege(:login, oid, 'CONNECT')
HAVING count(*) > 0
UNION ALL
SELECT 'take the connections that the service needs'
FROM pg_roles WHERE rolname = :login AND rolconnlimit NOT BETWEEN 0 AND :limit
UNION ALL
SELECT 'leave locks that outlive them: max_prepared_transactions is not 0'
WHERE current_setting('max_prepared_transactions') <> '0'
