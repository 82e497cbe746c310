-- Adds a record to the audit trail, as the service signed it; the only way into the table. It has its owner's rights,
-- so that the service itself can add a record and can neither change, remove nor seal one. Nothing happens for null.
CREATE FUNCTION record_audit(record jsonb) RETURNS void
LANGUAGE plpgsql STRICT SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
BEGIN
    INSERT INTO audit_log (id, at, user_id, actor, action, object, outcome, correlation_id, detail, key_id, mac)
    SELECT r.* FROM jsonb_to_record(record) AS r (
        id text, at timestamptz, user_id text, actor text, action text, object text, outcome text, correlation_id text,
        detail jsonb, key_id text, mac text);
END $$;
