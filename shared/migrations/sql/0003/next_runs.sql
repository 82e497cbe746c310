-- What may start next of a user: the oldest parked runs that wait for nothing but a slot, as many as the user may have in
-- progress. Its time depends on that number and on how many older runs wait for something else (a pause, an agent that no
-- worker has) and are passed over, each with a look at its row; not on how many are parked behind.
--
-- p_slots  the limit of a user who has none of their own
-- Answers  id; attempt: the one that would begin; slots: the user's limit; tell: whether others stay parked who may be told their new place
CREATE FUNCTION next_runs(p_user text, p_slots integer)
RETURNS TABLE (id text, attempt integer, slots integer, tell boolean)
LANGUAGE plpgsql STABLE SET search_path = lanewise
-- The plan is kept from when the table was small; by then a scan of all of it would have looked cheap.
SET enable_seqscan = off SET enable_sort = off SET enable_bitmapscan = off AS $$
#variable_conflict use_column
DECLARE
    own integer := coalesce((SELECT l.concurrent_runs FROM user_limits l WHERE l.user_id = p_user), p_slots);
    running integer := (SELECT count(*) FROM runs r WHERE r.user_id = p_user AND r.status = 'running');
    granted integer := (
        SELECT count(*) FROM runs r WHERE r.user_id = p_user AND r.status = 'queued' AND r.granted_at IS NOT NULL);
    parked integer; -- and not told their places just now
BEGIN
    SELECT s.queued - granted INTO parked FROM user_streams s
    WHERE s.user_id = p_user AND coalesce(s.positions_at < clock_timestamp() - interval '1 second', true);
    -- As many as the limit and not as what is left of it: one that has its slot already, of an admission that died, may
    -- stand behind the first; and of a user who has all that may be, whoever asks puts back slots that Redis has lost.
    RETURN QUERY SELECT c.id, c.attempt + 1, own,
        coalesce(parked > least(greatest(own - running - granted, 0), count(*) OVER ()), false)
    FROM (
        SELECT r.id, r.attempt, r.created_at FROM runs r
        WHERE r.user_id = p_user AND r.status = 'queued' AND r.granted_at IS NULL
            AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())
            -- Made once and looked up for each row: thousands may have to be passed over. (coalesce: not as a join)
            AND coalesce((r.agent, r.queue) IN (
                SELECT a, q FROM (SELECT DISTINCT w.agents, w.queues FROM serving w) w, unnest(w.agents) a, unnest(w.queues) q
            ), false)
        ORDER BY r.created_at, r.id LIMIT own
    ) c ORDER BY c.created_at, c.id;
END $$;
