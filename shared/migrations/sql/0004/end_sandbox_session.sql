-- Ends a session that `sandbox_sessions` listed. A pid that somebody else has by now has another start.
-- Answers whether there was one; it is gone some milliseconds later.
CREATE FUNCTION end_sandbox_session(of_pid integer, of_started timestamptz) RETURNS boolean
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = lanewise, pg_temp AS $$
    SELECT coalesce(bool_or(pg_terminate_backend(s.pid)), false)
    FROM sandbox_sessions() s WHERE s.pid = of_pid AND s.started = of_started
$$;
