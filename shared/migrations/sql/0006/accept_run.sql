-- Accepts a submission: the run, parked, with its idempotency key, thread and first event; or says why not, and then
-- writes nothing, but for an empty stream of a user who had none.
--
-- p_run         {user_id, id, thread_id, agent, queue, input, metadata, context, correlation_id, max_attempts, time_limit_s};
--               slots: how many in progress a user may have who has no limit of their own
-- p_new_thread  whether the thread is to be made with it
-- p_key         the idempotency key, or null
-- p_print       the fingerprint of the body that came with the key
-- p_quota       how many queued runs a user may have who has no limit of their own
-- Answers       refused: null, or `earlier` (earlier: the run that the key made), `other_body`, `in_flight`, `quota`,
--               `no_thread`; queued and parked: the user's runs before this one; quota and slots: the user's limits; run_s:
--               how long the user's recent runs took; then the time of the run and its event's numbers.
CREATE OR REPLACE FUNCTION accept_run(p_run jsonb, p_new_thread boolean, p_key text, p_print text, p_quota integer)
RETURNS TABLE (
    refused text, earlier text, queued integer, parked integer, quota integer, slots integer,
    run_s double precision, created_at timestamptz, seq bigint, run_seq integer, at timestamptz
)
LANGUAGE plpgsql SET search_path = lanewise AS $$
#variable_conflict use_column
DECLARE
    p_user text := p_run ->> 'user_id';
    made timestamptz;
    bound idempotency_keys;
BEGIN
    IF p_key IS NOT NULL THEN
        -- Whoever holds the lock is at it: nobody waits for a transaction of unknown length.
        IF NOT pg_try_advisory_xact_lock(hashtextextended(p_key, hashtextextended(p_user, 0))) THEN
            refused := 'in_flight';
        END IF;
        SELECT * INTO bound FROM idempotency_keys k WHERE k.user_id = p_user AND k.key = p_key;
        IF FOUND THEN
            refused := CASE WHEN bound.fingerprint = p_print THEN 'earlier' ELSE 'other_body' END;
            earlier := bound.run_id;
        END IF;
        IF refused IS NOT NULL THEN
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    IF NOT p_new_thread THEN
        -- Held until the commit: whoever deletes the thread meanwhile will see this run, and cancel it.
        PERFORM FROM threads t
        WHERE t.user_id = p_user AND t.id = p_run ->> 'thread_id' AND t.deleted_at IS NULL FOR SHARE;
        IF NOT FOUND THEN
            refused := 'no_thread';
            RETURN NEXT;
            RETURN;
        END IF;
    END IF;
    SELECT l.queued_runs, l.concurrent_runs INTO quota, slots FROM user_limits l WHERE l.user_id = p_user;
    quota := coalesce(quota, p_quota);
    slots := coalesce(slots, (p_run ->> 'slots')::integer);
    -- Locked, so that two submissions at once cannot pass the limit together; a user's first ones need a row for that.
    INSERT INTO user_streams (user_id, head) VALUES (p_user, 0) ON CONFLICT DO NOTHING;
    SELECT s.queued, s.run_s INTO queued, run_s FROM user_streams s WHERE s.user_id = p_user FOR NO KEY UPDATE;
    IF queued >= quota THEN
        refused := 'quota';
        RETURN NEXT;
        RETURN;
    END IF;
    parked := queued - (
        SELECT count(*) FROM runs r WHERE r.user_id = p_user AND r.status = 'queued' AND r.granted_at IS NOT NULL);
    IF p_new_thread THEN
        INSERT INTO threads (user_id, id, metadata) VALUES (p_user, p_run ->> 'thread_id', '{}');
    END IF;
    INSERT INTO runs (user_id, id, thread_id, agent, queue, status, input, metadata, context, correlation_id,
        max_attempts, time_limit_s)
    VALUES (p_user, p_run ->> 'id', p_run ->> 'thread_id', p_run ->> 'agent', p_run ->> 'queue', 'queued',
        p_run -> 'input', p_run -> 'metadata', p_run -> 'context', p_run ->> 'correlation_id',
        (p_run ->> 'max_attempts')::integer, (p_run ->> 'time_limit_s')::double precision)
    RETURNING runs.created_at INTO made;
    IF p_key IS NOT NULL THEN
        INSERT INTO idempotency_keys (user_id, key, fingerprint, run_id) VALUES (p_user, p_key, p_print, p_run ->> 'id');
    END IF;
    RETURN QUERY SELECT NULL::text, NULL::text, queued, parked, quota, slots, run_s, made, e.seq, e.run_seq, e.at
    FROM append_events(jsonb_build_array(jsonb_build_object(
        'n', 0, 'user_id', p_user, 'run_id', p_run ->> 'id', 'attempt', 0, 'type', 'run_queued',
        'agent', p_run ->> 'agent', 'data', '{}'::jsonb))) e;
END $$;
