-- Has a new run go on where an ended one of the same thread stopped: copies its recorded steps and what its agents saved
-- with the scope `run`. Files stay with the run that saved them.
--
-- :user_id    whose
-- :old, :new  ids of the two runs
WITH marked AS (
    UPDATE runs SET retry_of = :old WHERE user_id = :user_id AND id = :new
), steps AS (
    INSERT INTO run_steps (user_id, run_id, name, attempt, size, result, recorded_at)
    SELECT s.user_id, :new, s.name, 0, s.size, s.result, s.recorded_at  -- 0: by no attempt of this run
    FROM run_steps s WHERE s.user_id = :user_id AND s.run_id = :old
)
INSERT INTO agent_state (user_id, thread_id, agent, run_id, version, value, saved_by, saved_at)
SELECT a.user_id, a.thread_id, a.agent, :new, a.version, a.value, a.saved_by, a.saved_at
FROM agent_state a WHERE a.user_id = :user_id AND a.run_id = :old
