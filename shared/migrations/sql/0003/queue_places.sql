-- Where queued runs stand and what they wait for. Costs a walk along the parked runs up to the newest that is asked for,
-- however many are asked for.
--
-- p_runs   of the user; null: the first ten that are parked
-- p_slots  the limit of a user who has none of their own
-- Answers  those that are queued: id; place: among the parked, 1 is next, 0: granted; reason; eta_s: seconds until it
--          starts if runs take as long as the user's last ones did, null if nothing is known of that
CREATE FUNCTION queue_places(p_user text, p_runs text[], p_slots integer)
RETURNS TABLE (id text, place integer, reason text, eta_s double precision)
LANGUAGE plpgsql STABLE SET search_path = lanewise
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    own integer := coalesce((SELECT l.concurrent_runs FROM user_limits l WHERE l.user_id = p_user), p_slots);
    each_s double precision := (SELECT s.run_s FROM user_streams s WHERE s.user_id = p_user);
    newest_at timestamptz;
    newest_id text;
BEGIN
    IF p_runs IS NULL THEN
        p_runs := ARRAY(SELECT r.id FROM runs r WHERE r.user_id = p_user AND r.status = 'queued' AND r.granted_at IS NULL
            ORDER BY r.created_at, r.id LIMIT 10);
    END IF;
    -- In variables, for a range of the index that gives the runs in their order.
    SELECT r.created_at, r.id INTO newest_at, newest_id FROM runs r
    WHERE r.user_id = p_user AND r.id = ANY (p_runs) AND r.status = 'queued' AND r.granted_at IS NULL
    ORDER BY r.created_at DESC, r.id DESC LIMIT 1;
    RETURN QUERY WITH numbered AS MATERIALIZED (
        SELECT o.id, row_number() OVER (ORDER BY o.created_at, o.id)::integer AS place FROM runs o
        WHERE o.user_id = p_user AND o.status = 'queued' AND o.granted_at IS NULL
            AND (o.created_at, o.id) <= (newest_at, newest_id)
    ), chosen AS (
        SELECT r.*, coalesce(n.place, 0) AS place FROM runs r LEFT JOIN numbered n ON n.id = r.id
        WHERE r.user_id = p_user AND r.id = ANY (p_runs) AND r.status = 'queued'
    )
    SELECT c.id, c.place,
        CASE
            WHEN NOT EXISTS (SELECT FROM serving w WHERE c.agent = ANY (w.agents) AND c.queue = ANY (w.queues))
                THEN 'no_worker'
            WHEN c.not_before > clock_timestamp() THEN 'retry_backoff'
            WHEN c.attempt > 0 THEN 'recovering'
            WHEN c.granted_at IS NOT NULL THEN 'fleet_busy'
            ELSE 'user_limit'
        END,
        CASE WHEN c.granted_at IS NULL THEN round(greatest(
            each_s * c.place / own, extract(epoch FROM c.not_before - clock_timestamp()))::numeric, 1)::double precision END
    FROM chosen c;
END $$;
