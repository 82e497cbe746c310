-- The runs of a user's that a snapshot holds: live ones, those that run first and then in the order of their admission,
-- and the newest of all; without those of deleted threads.
--
-- :user_id               whose
-- :live, :recent         how many of each at most
-- :budget                inputs and outputs are left out once they reach so many bytes; the first run's always come
-- Answers                the runs; `more`: whether there are more live ones.
WITH own AS (
    SELECT r.id, r.status FROM runs r WHERE r.user_id = :user_id AND EXISTS (
        SELECT FROM threads t WHERE t.user_id = r.user_id AND t.id = r.thread_id AND t.deleted_at IS NULL
    )
), live AS MATERIALIZED (
    SELECT id, row_number() OVER (ORDER BY status = 'queued', id) AS place FROM own WHERE status IN ('queued', 'running')
    ORDER BY place LIMIT :live + 1
), recent AS MATERIALIZED (
    SELECT id FROM own ORDER BY id DESC LIMIT :recent
), chosen AS (
    SELECT id, place FROM live WHERE place <= :live
    UNION ALL SELECT id, NULL FROM recent WHERE id NOT IN (SELECT id FROM live WHERE place <= :live)
), sized AS (
    SELECT c.place, r.*, sum(
        octet_length(CAST(r.input AS text)) + coalesce(octet_length(CAST(r.output AS text)), 0)
    ) OVER (ORDER BY c.place, r.id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM chosen c JOIN runs r ON r.user_id = :user_id AND r.id = c.id
)
SELECT id, agent, status, thread_id, CASE WHEN fits THEN input END AS input, CASE WHEN fits THEN output END AS output,
    error, attempt, last_run_seq, progress, progress_note, usage, retry_of, metadata AS meta, correlation_id, created_at,
    granted_at, started_at, finished_at, (SELECT count(*) FROM live) > :live AS more
FROM sized, LATERAL (SELECT coalesce(bytes_before, 0) < :budget AS fits) AS budgeted
ORDER BY id DESC
