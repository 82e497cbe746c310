-- The oldest parked runs of a user, as many as the user may have in progress.
--
-- :user_id  whose
-- :slots    the limit of a user who has none of their own
-- Answers   id and the user's limit, oldest first.
WITH own AS (
    SELECT coalesce((SELECT concurrent_runs FROM user_limits WHERE user_id = :user_id), :slots) AS slots
)
SELECT r.id, own.slots FROM own, LATERAL (
    SELECT id FROM runs WHERE user_id = :user_id AND status = 'queued' AND granted_at IS NULL
    ORDER BY created_at, id LIMIT own.slots
) r
