-- Removes the records of the oldest seals, and these seals but for the last of them, and moves the anchor of the
-- chain's beginning. That last seal stays, to tell by its signed time how old they were. What is younger than
-- `audit_retention` says is never removed: the caller may be somebody who has taken over a worker, and has its key.
--
-- p_seen     the seal after which the caller saw the chain begin
-- p_anchor   {seal, seal_mac, key_id, mac}: the last seal whose records are to be removed
-- Answers    whether it is done: else somebody else was faster, and nothing is removed.
CREATE OR REPLACE FUNCTION trim_audit(p_seen bigint, p_anchor jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
DECLARE
    p_seal bigint := (p_anchor ->> 'seal')::bigint;
    kept_since timestamptz := coalesce((SELECT now() - age FROM audit_retention), '-infinity');
BEGIN
    UPDATE audit_anchors a SET seal = r.seal, seal_mac = r.seal_mac, key_id = r.key_id, mac = r.mac
    FROM jsonb_to_record(p_anchor) AS r (seal bigint, seal_mac text, key_id text, mac text)
    WHERE a.name = 'first' AND a.seal = p_seen;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF NOT EXISTS (SELECT FROM audit_seals WHERE number = p_seal AND mac = p_anchor ->> 'seal_mac') THEN
        RAISE EXCEPTION 'there is no such seal %', p_seal;
    END IF;
    IF EXISTS (SELECT FROM audit_seals WHERE number <= p_seal AND sealed_at >= kept_since) THEN
        RAISE EXCEPTION 'up to seal % there are some that are to be kept: made since %', p_seal, kept_since;
    END IF;
    DELETE FROM audit_log WHERE seal <= p_seal;
    DELETE FROM audit_seals WHERE number < p_seal;
    RETURN true;
END $$;
