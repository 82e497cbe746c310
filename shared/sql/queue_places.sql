-- Where parked runs stand in the queue of their user.
--
-- :user_id  whose
-- :run_ids  which
-- Answers   id and place of those that are parked; 1 is next.
SELECT id, place FROM (
    SELECT id, row_number() OVER (ORDER BY created_at, id) AS place
    FROM runs WHERE user_id = :user_id AND status = 'queued' AND granted_at IS NULL
) parked
WHERE id = ANY (:run_ids)
