-- What may start next of a user: the oldest parked runs that wait for nothing but a slot, as many as the user may have in
-- progress. Its time depends on that number, not on how many are parked.
--
-- p_slots  the limit of a user who has none of their own
-- Answers  id; attempt: the one that would begin; slots: the user's limit; idle: whether the user has no live run at all;
--          tell: whether others stay parked who may be told their new place
CREATE FUNCTION next_runs(p_user text, p_slots integer)
RETURNS TABLE (id text, attempt integer, slots integer, idle boolean, tell boolean)
LANGUAGE plpgsql STABLE SET search_path = lanewise
-- The plan is kept from when the table was small; by then a scan of all of it would have looked cheap.
SET enable_seqscan = off SET enable_sort = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    own integer := coalesce((SELECT l.concurrent_runs FROM user_limits l WHERE l.user_id = p_user), p_slots);
    no_live boolean;
    waiting boolean;
BEGIN
    no_live := NOT EXISTS (SELECT FROM runs r WHERE r.user_id = p_user AND r.status = 'running')
        AND NOT EXISTS (SELECT FROM runs r WHERE r.user_id = p_user AND r.status = 'queued' AND r.granted_at IS NOT NULL);
    SELECT s.queued > own AND (s.positions_at IS NULL OR s.positions_at < clock_timestamp() - interval '1 second')
    INTO waiting FROM user_streams s WHERE s.user_id = p_user;
    RETURN QUERY SELECT r.id, r.attempt + 1, own, no_live, coalesce(waiting, false)
    FROM runs r
    WHERE r.user_id = p_user AND r.status = 'queued' AND r.granted_at IS NULL
        AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())
        AND EXISTS (SELECT FROM workers w WHERE r.agent = ANY (w.agents) AND r.queue = ANY (w.queues))
    ORDER BY r.created_at, r.id LIMIT own;
END $$;
