-- A page of a user's runs, newest first, without those of deleted threads.
--
-- :user_id               whose
-- :run_id, :agent, :thread_id, :statuses  only such runs; null: any
-- :before                only runs with a lower id; null: from the newest
-- :limit                 how many at most
-- :budget                the page ends where its inputs and outputs reach so many bytes; the first run always comes
-- Answers                the runs; `total`: as many as there are up to one above the limit.
WITH chosen AS MATERIALIZED (
    SELECT r.id, r.agent, r.status, r.thread_id, r.input, r.output, r.error, r.attempt, r.last_run_seq, r.progress,
        r.progress_note, r.usage, r.retry_of, r.metadata AS meta, r.correlation_id, r.created_at, r.granted_at, r.started_at,
        r.finished_at
    FROM runs r
    WHERE r.user_id = :user_id
        AND (CAST(:run_id AS text) IS NULL OR r.id = :run_id)
        AND (CAST(:agent AS text) IS NULL OR r.agent = :agent)
        AND (CAST(:thread_id AS text) IS NULL OR r.thread_id = :thread_id)
        AND (CAST(:statuses AS text[]) IS NULL OR r.status = ANY (CAST(:statuses AS text[])))
        AND (CAST(:before AS text) IS NULL OR r.id < :before)
        AND EXISTS (
            SELECT FROM threads t WHERE t.user_id = r.user_id AND t.id = r.thread_id AND t.deleted_at IS NULL
        )
    ORDER BY r.id DESC LIMIT :limit + 1
), sized AS (
    SELECT *, count(*) OVER () AS total, sum(
        octet_length(CAST(input AS text)) + coalesce(octet_length(CAST(output AS text)), 0)
    ) OVER (ORDER BY id DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING) AS bytes_before
    FROM chosen
)
SELECT * FROM sized WHERE coalesce(bytes_before, 0) < :budget ORDER BY id DESC LIMIT :limit
