-- Adds a record to the audit trail, as the service signed it; the only way into the table. It has its owner's rights,
-- so that the service itself can add a record and can neither change, remove nor seal one. Nothing happens for null.
--
-- A record that says another day than today is refused: whoever has the service's key must not add to the past.
CREATE OR REPLACE FUNCTION record_audit(record jsonb) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
BEGIN
    IF abs(extract(epoch FROM (record ->> 'at')::timestamptz - clock_timestamp())) > 86400 THEN
        RAISE EXCEPTION 'a record of % is not taken: it is more than a day off', record ->> 'at';
    END IF;
    INSERT INTO audit_log (id, at, user_id, actor, action, object, outcome, correlation_id, detail, key_id, mac)
    SELECT r.* FROM jsonb_to_record(record) AS r (
        id text, at timestamptz, user_id text, actor text, action text, object text, outcome text, correlation_id text,
        detail jsonb, key_id text, mac text);
END $$;
