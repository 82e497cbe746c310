-- Adds a seal to the chain and moves the anchor of its end.
--
-- p_seen     the seal at which the caller saw the chain end, null if it saw no anchor
-- p_seal     {number, sealed_at, ids, previous, digest, key_id, mac}; ids: the sealed records, each one not sealed yet;
--            sealed_at: within an hour of this clock, for by its age a seal is removed one day
-- p_anchor   {seal, seal_mac, key_id, mac}
-- Answers    whether it is done: else the chain has gone on meanwhile, and nothing is written. The anchor's row is
--            locked until the commit, by workers that seal only: no run waits for it.
CREATE OR REPLACE FUNCTION seal_audit(p_seen bigint, p_seal jsonb, p_anchor jsonb) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
DECLARE
    p_ids text[] := ARRAY(SELECT jsonb_array_elements_text(p_seal -> 'ids'));
    sealed integer;
BEGIN
    IF abs(extract(epoch FROM (p_seal ->> 'sealed_at')::timestamptz - clock_timestamp())) > 3600 THEN
        RAISE EXCEPTION 'a seal of % is not taken: it is more than an hour off', p_seal ->> 'sealed_at';
    END IF;
    INSERT INTO audit_anchors AS a (name, seal, seal_mac, key_id, mac)
    SELECT 'last', r.* FROM jsonb_to_record(p_anchor) AS r (seal bigint, seal_mac text, key_id text, mac text)
    ON CONFLICT (name) DO UPDATE
    SET seal = excluded.seal, seal_mac = excluded.seal_mac, key_id = excluded.key_id, mac = excluded.mac
    WHERE a.seal = p_seen;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    UPDATE audit_log SET seal = (p_seal ->> 'number')::bigint WHERE id = ANY (p_ids) AND seal IS NULL;
    GET DIAGNOSTICS sealed = ROW_COUNT;
    IF sealed <> cardinality(p_ids) THEN
        RAISE EXCEPTION 'of % records % are there to be sealed', cardinality(p_ids), sealed;
    END IF;
    INSERT INTO audit_seals (number, sealed_at, ids, previous, digest, key_id, mac)
    SELECT r.* FROM jsonb_to_record(p_seal) AS r (
        number bigint, sealed_at timestamptz, ids text[], previous text, digest text, key_id text, mac text);
    RETURN true;
END $$;
