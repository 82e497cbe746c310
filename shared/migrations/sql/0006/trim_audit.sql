-- Removes the oldest seals with their records, and moves the anchor of the chain's beginning.
--
-- p_seen     the seal after which the caller saw the chain begin
-- p_anchor   {seal, seal_mac, key_id, mac}: the last seal to be removed
-- Answers    whether it is done: else somebody else was faster, and nothing is removed.
CREATE FUNCTION trim_audit(p_seen bigint, p_anchor jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
DECLARE
    p_seal bigint := (p_anchor ->> 'seal')::bigint;
BEGIN
    UPDATE audit_anchors a SET seal = r.seal, seal_mac = r.seal_mac, key_id = r.key_id, mac = r.mac
    FROM jsonb_to_record(p_anchor) AS r (seal bigint, seal_mac text, key_id text, mac text)
    WHERE a.name = 'first' AND a.seal = p_seen;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    DELETE FROM audit_log WHERE seal <= p_seal;
    DELETE FROM audit_seals WHERE number <= p_seal;
    RETURN true;
END $$;
