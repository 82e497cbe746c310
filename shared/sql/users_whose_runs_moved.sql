-- Users of whose first ten parked runs one does not stand where it was last told, and who were told nothing for a second.
--
-- :most  how many users at most, in an order that differs each time
WITH RECURSIVE waiting AS (
    (SELECT user_id FROM runs WHERE status = 'queued' ORDER BY user_id LIMIT 1)
    UNION ALL
    SELECT (SELECT r.user_id FROM runs r WHERE r.status = 'queued' AND r.user_id > w.user_id ORDER BY r.user_id LIMIT 1)
    FROM waiting w WHERE w.user_id IS NOT NULL
)
SELECT w.user_id FROM waiting w JOIN user_streams s ON s.user_id = w.user_id
WHERE coalesce(s.positions_at < clock_timestamp() - interval '1 second', true) AND EXISTS (
    SELECT FROM (
        SELECT r.position_told, row_number() OVER (ORDER BY r.created_at, r.id) AS place
        FROM runs r WHERE r.user_id = w.user_id AND r.status = 'queued' AND r.granted_at IS NULL
        ORDER BY r.created_at, r.id LIMIT 10
    ) first WHERE first.position_told IS DISTINCT FROM first.place
)
ORDER BY random() LIMIT :most
