"""The tables of one run, row level security, and the function that verifies a sandbox's token."""

from importlib.resources import files

from alembic import op

revision = "0001"
down_revision = None

TABLES = """
CREATE TABLE agents (
    name text PRIMARY KEY,
    description text NOT NULL,
    input_schema jsonb NOT NULL,
    queue text NOT NULL,
    time_limit_s double precision NOT NULL,
    max_attempts integer NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE workers (
    id text PRIMARY KEY,
    name text NOT NULL,
    agents text[] NOT NULL,
    queues text[] NOT NULL,
    slots integer NOT NULL,
    draining boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT now(),
    heartbeat_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE leases (
    name text PRIMARY KEY,
    holder text NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE TABLE user_streams (
    user_id text PRIMARY KEY,
    head bigint NOT NULL
);
CREATE TABLE user_limits (
    user_id text PRIMARY KEY,
    concurrent_runs integer CHECK (concurrent_runs > 0),
    queued_runs integer CHECK (queued_runs > 0)
);
CREATE TABLE threads (
    user_id text NOT NULL,
    id text NOT NULL,
    title text,
    metadata jsonb NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    PRIMARY KEY (user_id, id)
);
CREATE TABLE runs (
    user_id text NOT NULL,
    id text NOT NULL,
    thread_id text NOT NULL,
    agent text NOT NULL,
    queue text NOT NULL,
    status text NOT NULL
        CHECK (status IN ('queued', 'running', 'completed', 'failed', 'cancelled', 'timed_out')),
    input jsonb NOT NULL,
    output jsonb,
    error jsonb,
    metadata jsonb NOT NULL,
    context jsonb NOT NULL,
    correlation_id text NOT NULL,
    attempt integer NOT NULL DEFAULT 0,
    lost_attempts integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL CHECK (max_attempts > 0),
    time_limit_s double precision NOT NULL CHECK (time_limit_s > 0),
    ran_s double precision NOT NULL DEFAULT 0,
    progress double precision NOT NULL DEFAULT 0,
    progress_note text NOT NULL DEFAULT '',
    last_run_seq integer NOT NULL DEFAULT 0,
    worker_id text,
    created_at timestamptz NOT NULL DEFAULT now(),
    granted_at timestamptz,
    sent_at timestamptz,
    sends integer NOT NULL DEFAULT 0,
    cancel_requested_at timestamptz,
    claimed_at timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    PRIMARY KEY (user_id, id),
    FOREIGN KEY (user_id, thread_id) REFERENCES threads (user_id, id) ON DELETE CASCADE,
    CHECK ((finished_at IS NULL) = (status IN ('queued', 'running')))
);
CREATE INDEX runs_parked ON runs (user_id, created_at, id) WHERE status = 'queued';
CREATE INDEX runs_running ON runs (worker_id) WHERE status = 'running';
CREATE INDEX runs_by_thread ON runs (user_id, thread_id);
CREATE TABLE run_events (
    user_id text NOT NULL,
    seq bigint NOT NULL,
    run_id text NOT NULL,
    run_seq integer NOT NULL,
    thread_id text NOT NULL,
    attempt integer NOT NULL,
    type text NOT NULL,
    agent text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    correlation_id text NOT NULL,
    data jsonb NOT NULL,
    PRIMARY KEY (user_id, seq),
    CONSTRAINT run_events_by_run UNIQUE (user_id, run_id, run_seq)
);
CREATE TABLE documents (
    user_id text NOT NULL,
    name text NOT NULL,
    content_type text NOT NULL,
    size bigint NOT NULL,
    sha256 text NOT NULL,
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, name)
);
CREATE TABLE idempotency_keys (
    user_id text NOT NULL,
    key text NOT NULL,
    fingerprint text NOT NULL,
    run_id text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, key)
);
CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    user_id text NOT NULL,
    actor text NOT NULL,
    action text NOT NULL,
    object text NOT NULL,
    outcome text NOT NULL,
    correlation_id text,
    detail jsonb NOT NULL
);
-- The two halves of an HMAC key, padded and XORed as RFC 2104 says, because SQL has no XOR for bytea.
CREATE TABLE token_keys (
    id text PRIMARY KEY,
    inner_pad bytea NOT NULL,
    outer_pad bytea NOT NULL
);
"""

USER_TABLES = (
    "user_streams", "user_limits", "threads", "runs", "run_events", "documents", "idempotency_keys", "audit_log",
)  # fmt: skip

# The service states the user for each transaction; '*' (no user can be called so) is what the leader and the event
# writer state, who work for all.
POLICY = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY service ON {table} TO lanewise_service, lanewise_owner
    USING (user_id = current_setting('lanewise.user', true) OR current_setting('lanewise.user', true) = '*');
"""

GRANTS = """
GRANT USAGE ON SCHEMA lanewise TO lanewise_service, lanewise_run;
GRANT SELECT, INSERT, UPDATE, DELETE ON
    agents, workers, leases, user_streams, user_limits, threads, runs, run_events, documents, idempotency_keys
    TO lanewise_service;
GRANT SELECT, INSERT ON audit_log TO lanewise_service;
GRANT SELECT ON alembic_version TO lanewise_service; -- readiness compares it with what the code needs
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA lanewise FROM PUBLIC;
GRANT EXECUTE ON FUNCTION append_events, accept_run, claim_run, end_run TO lanewise_service;
GRANT SELECT ON documents TO lanewise_run;
CREATE POLICY run ON documents FOR SELECT TO lanewise_run USING (user_id = (SELECT run_user()));
"""


def upgrade() -> None:
    """Makes everything."""
    op.execute(TABLES)
    for name in ("run_user", "append_events", "accept_run", "claim_run", "end_run"):
        op.execute((files("shared.migrations") / "sql" / "0001" / f"{name}.sql").read_text())
    for table in USER_TABLES:
        op.execute(POLICY.format(table=table))
    op.execute(GRANTS)
