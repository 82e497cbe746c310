-- Appends events to the log and gives them their numbers. A function, because its plan is worth keeping: planning takes
-- longer than doing.
--
-- events   JSON array of {n, user_id, run_id, attempt, type, agent, data, ordinal}, n ascending in the order of emission;
--          ordinal: the how-manieth of its attempt a sandbox's event is, null for others.
-- Answers  one row per event that was stored: n, seq, run_seq, at. An event of a superseded attempt, or of a run that has
--          ended, is not stored. Neither is, of a run that is queued again, what its last attempt still has to say: no
--          other attempt has begun yet, but that one is over. That is the fence. An event that is in the log already,
--          because the answer to an earlier call was lost, is answered with its n alone.
--
-- Locks are taken in one order everywhere: runs by id, then streams by user. A run's lock here lets `record_step` of the
-- same run pass, which holds its own until a sandbox commits: the log must not wait for that. The stream's row is locked
-- until the commit, so that for one user the order of numbers is the order of commits, and a reader never sees a gap that
-- fills later.
CREATE OR REPLACE FUNCTION append_events(events jsonb)
RETURNS TABLE (n integer, seq bigint, run_seq integer, at timestamptz, thread_id text, correlation_id text)
LANGUAGE plpgsql SET search_path = lanewise AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH batch AS MATERIALIZED (
        SELECT * FROM jsonb_to_recordset(events)
            AS e (n integer, user_id text, run_id text, attempt integer, type text, agent text, data jsonb,
                ordinal integer)
    ), locked AS MATERIALIZED (
        SELECT r.user_id, r.id, r.attempt, r.status, r.emitted FROM runs r
        WHERE (r.user_id, r.id) IN (SELECT user_id, run_id FROM batch)
        ORDER BY r.id FOR NO KEY UPDATE
    ), owned AS MATERIALIZED (
        SELECT b.*, coalesce(b.ordinal <= l.emitted, false) AS known
        FROM batch b JOIN locked l ON l.user_id = b.user_id AND l.id = b.run_id AND l.attempt = b.attempt
        WHERE l.status = 'running' OR l.status = 'queued' AND starts_with(b.type, 'run_')
    ), valid AS MATERIALIZED (
        SELECT * FROM owned WHERE NOT known
    ), per_run AS (
        SELECT user_id, run_id, count(*) AS events, max(ordinal) AS ordinal,
            (array_agg(data ORDER BY n DESC) FILTER (WHERE type = 'agent_progress'))[1] AS progress
        FROM valid GROUP BY user_id, run_id
    ), run AS (
        UPDATE runs r SET
            last_run_seq = r.last_run_seq + p.events, emitted = greatest(r.emitted, p.ordinal),
            progress = coalesce(p.progress ->> 'run_fraction', p.progress ->> 'fraction', r.progress::text)::double precision,
            progress_note = coalesce(p.progress ->> 'note', r.progress_note)
        FROM per_run p
        WHERE r.user_id = p.user_id AND r.id = p.run_id
        RETURNING r.user_id, r.id, r.thread_id, r.correlation_id, r.last_run_seq - p.events AS before
    ), accepted AS (
        SELECT v.*, run.thread_id, run.correlation_id,
            run.before + row_number() OVER (PARTITION BY v.user_id, v.run_id ORDER BY v.n) AS run_seq,
            row_number() OVER (PARTITION BY v.user_id ORDER BY v.n) AS place
        FROM valid v JOIN run ON run.user_id = v.user_id AND run.id = v.run_id
    ), stream AS (
        INSERT INTO user_streams AS s (user_id, head)
        SELECT user_id, count(*) FROM accepted GROUP BY user_id ORDER BY user_id
        ON CONFLICT (user_id) DO UPDATE SET head = s.head + excluded.head
        RETURNING s.user_id, s.head
    ), total AS (
        SELECT a.user_id, s.head - count(*) AS before FROM accepted a JOIN stream s ON s.user_id = a.user_id
        GROUP BY a.user_id, s.head
    ), stored AS (
        INSERT INTO run_events (user_id, seq, run_id, run_seq, thread_id, attempt, type, agent, at, correlation_id, data)
        SELECT a.user_id, t.before + a.place, a.run_id, a.run_seq, a.thread_id, a.attempt, a.type, a.agent,
            clock_timestamp(), a.correlation_id, a.data
        FROM accepted a JOIN total t ON t.user_id = a.user_id
        RETURNING user_id, run_id, run_seq, seq, at, thread_id, correlation_id
    )
    SELECT a.n, s.seq, s.run_seq, s.at, s.thread_id, s.correlation_id
    FROM stored s JOIN accepted a ON a.user_id = s.user_id AND a.run_id = s.run_id AND a.run_seq = s.run_seq
    UNION ALL
    SELECT o.n, NULL, NULL, NULL, NULL, NULL FROM owned o WHERE o.known
    ORDER BY 1;
END $$;
