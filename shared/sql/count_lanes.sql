-- How many runs of all users are where, and for how many seconds the oldest granted one has been waiting for a worker.
SELECT held.granted, running.running, greatest(queues.queued - held.granted, 0) AS parked, held.oldest_granted_s
FROM (
    SELECT count(*) AS granted,
        coalesce(extract(epoch FROM clock_timestamp() - min(granted_at)), 0)::double precision AS oldest_granted_s
    FROM runs WHERE status = 'queued' AND granted_at IS NOT NULL
) held,
(SELECT count(*) AS running FROM runs WHERE status = 'running') running,
(SELECT coalesce(sum(queued), 0) AS queued FROM user_streams) queues
