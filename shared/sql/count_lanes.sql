-- How many runs of all users are where: a row for each queue with granted runs, with the age in seconds of the oldest grant,
-- and one without a queue for all of them.
WITH held AS MATERIALIZED (
    SELECT queue, count(*) AS granted, extract(epoch FROM clock_timestamp() - min(granted_at))::double precision AS oldest_s
    FROM runs WHERE status = 'queued' AND granted_at IS NOT NULL GROUP BY queue
)
SELECT queue, granted, oldest_s, NULL::bigint AS running, NULL::bigint AS parked FROM held
UNION ALL
SELECT NULL, total.granted, NULL, (SELECT count(*) FROM runs WHERE status = 'running'),
    greatest((SELECT coalesce(sum(queued), 0) FROM user_streams) - total.granted, 0)::bigint
FROM (SELECT coalesce(sum(granted), 0)::bigint AS granted FROM held) total
