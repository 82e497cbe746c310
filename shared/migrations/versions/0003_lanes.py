"""Lanes: retries and their history, the queue's counts and positions, numbered events of an attempt, retention."""

from importlib.resources import files

from alembic import op

revision = "0003"
down_revision = "0002"

TABLES = """
ALTER TABLE runs
    -- Parked until then: Retry and the back-off after lost attempts.
    ADD COLUMN not_before timestamptz,
    -- The attempts that were lost, oldest first: {attempt, reason, message, at}.
    ADD COLUMN lost jsonb NOT NULL DEFAULT '[]',
    -- How many events of the present attempt's sandbox are stored: a batch that is written again adds none.
    ADD COLUMN emitted integer NOT NULL DEFAULT 0,
    -- The place in the queue that the last `run_position` event told.
    ADD COLUMN position_told integer,
    -- The run that this one is a retry of.
    ADD COLUMN retry_of text;
ALTER TABLE user_streams
    -- Queued runs, parked and granted; kept by a trigger.
    ADD COLUMN queued integer NOT NULL DEFAULT 0,
    -- Running time of the user's recent runs, seconds: an exponential mean.
    ADD COLUMN run_s double precision,
    -- When positions were told last.
    ADD COLUMN positions_at timestamptz,
    -- Events up to this `seq` may have been removed.
    ADD COLUMN trimmed bigint NOT NULL DEFAULT 0;
-- After so many seconds of silence a worker counts as dead: its own lease.
ALTER TABLE workers ADD COLUMN lease_s double precision NOT NULL DEFAULT 15;
-- The workers that take new runs.
CREATE VIEW serving AS SELECT id, agents, queues FROM workers
    WHERE NOT draining AND heartbeat_at > clock_timestamp() - make_interval(secs => lease_s);
CREATE INDEX runs_ended ON runs (finished_at) WHERE finished_at IS NOT NULL;
-- What goes with a run that is past retention.
CREATE INDEX idempotency_keys_by_run ON idempotency_keys (user_id, run_id);
CREATE INDEX agent_state_by_run ON agent_state (user_id, run_id);
-- What holds a slot, by user.
CREATE INDEX runs_granted ON runs (user_id) WHERE status = 'queued' AND granted_at IS NOT NULL;
DROP INDEX runs_running;
CREATE INDEX runs_running ON runs (user_id, worker_id) WHERE status = 'running';
UPDATE user_streams s SET queued = (SELECT count(*) FROM runs r WHERE r.user_id = s.user_id AND r.status = 'queued');
"""

FUNCTIONS = (
    "count_queued", "append_events", "accept_run", "claim_run", "end_run", "next_runs", "queue_places",
    "tell_positions",
)  # fmt: skip

GRANTS = """
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA lanewise FROM PUBLIC;
GRANT SELECT ON serving TO lanewise_service;
GRANT EXECUTE ON FUNCTION accept_run, next_runs, queue_places, tell_positions TO lanewise_service;
"""


def upgrade() -> None:
    """Makes everything."""
    # The rows of all users, who are many: row level security binds the owner too.
    op.execute("SELECT set_config('lanewise.user', '*', true)")
    op.execute(TABLES)
    op.execute("DROP FUNCTION accept_run")  # it answers more; an older api does not mind
    for name in FUNCTIONS:
        op.execute((files("shared.migrations") / "sql" / "0003" / f"{name}.sql").read_text())
    op.execute(GRANTS)
