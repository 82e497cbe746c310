-- Users with a parked run that waits for nothing but a slot, and fewer live runs than they may have: normally none.
--
-- :slots  the limit of users who have none of their own
-- :most   how many users at most, in an order that differs each time
WITH RECURSIVE waiting AS (
    -- From one user to the next in the index of the queued: a long queue costs no more than a short one.
    (SELECT user_id FROM runs WHERE status = 'queued' ORDER BY user_id LIMIT 1)
    UNION ALL
    SELECT (SELECT r.user_id FROM runs r WHERE r.status = 'queued' AND r.user_id > w.user_id ORDER BY r.user_id LIMIT 1)
    FROM waiting w WHERE w.user_id IS NOT NULL
)
SELECT w.user_id FROM waiting w LEFT JOIN user_limits l ON l.user_id = w.user_id
WHERE coalesce(l.concurrent_runs, :slots) > (
        SELECT count(*) FROM runs r WHERE r.user_id = w.user_id AND r.status = 'running'
    ) + (
        SELECT count(*) FROM runs r WHERE r.user_id = w.user_id AND r.status = 'queued' AND r.granted_at IS NOT NULL
    )
    AND EXISTS (
        SELECT FROM runs r
        WHERE r.user_id = w.user_id AND r.status = 'queued' AND r.granted_at IS NULL
            AND (r.not_before IS NULL OR r.not_before <= clock_timestamp())
            AND coalesce((r.agent, r.queue) IN ( -- made once, as in next_runs
                SELECT a, q FROM (SELECT DISTINCT k.agents, k.queues FROM serving k) k, unnest(k.agents) a, unnest(k.queues) q
            ), false)
    )
ORDER BY random() LIMIT :most
