"""What agents keep: steps, memory, artifacts, passages of documents, tool grants; and the run's use of models."""

from importlib.resources import files

from alembic import op

revision = "0002"
down_revision = "0001"

TABLES = """
-- What a model was asked for, and how much: {requests, input_tokens, output_tokens}.
ALTER TABLE runs ADD COLUMN usage jsonb NOT NULL DEFAULT '{}';
CREATE TABLE run_steps (
    user_id text NOT NULL,
    run_id text NOT NULL,
    name text NOT NULL,
    attempt integer NOT NULL,
    size integer NOT NULL,
    result json NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, run_id, name),
    FOREIGN KEY (user_id, run_id) REFERENCES runs (user_id, id) ON DELETE CASCADE
);
CREATE TABLE agent_state (
    user_id text NOT NULL,
    thread_id text NOT NULL,
    agent text NOT NULL,
    run_id text NOT NULL,
    version bigint NOT NULL,
    value json NOT NULL,
    saved_by text NOT NULL,
    saved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (user_id, thread_id, agent, run_id),
    FOREIGN KEY (user_id, thread_id) REFERENCES threads (user_id, id) ON DELETE CASCADE
);
CREATE TABLE artifacts (
    user_id text NOT NULL,
    run_id text NOT NULL,
    name text NOT NULL,
    content_type text NOT NULL,
    size bigint NOT NULL,
    sha256 text NOT NULL,
    content bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, run_id, name),
    FOREIGN KEY (user_id, run_id) REFERENCES runs (user_id, id) ON DELETE CASCADE
);
CREATE TABLE tool_grants (
    user_id text NOT NULL,
    tool text NOT NULL,
    granted_by text NOT NULL,
    granted_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    PRIMARY KEY (user_id, tool)
);
-- Passages of the user's documents, made by the first research that needs them; `sha256` tells of which content.
CREATE TABLE document_passages (
    user_id text NOT NULL,
    document text NOT NULL,
    number integer NOT NULL,
    sha256 text NOT NULL,
    heading text NOT NULL,
    page integer,
    start_char integer NOT NULL,
    end_char integer NOT NULL,
    text text NOT NULL,
    words tsvector NOT NULL GENERATED ALWAYS AS
        (setweight(to_tsvector('english', heading), 'B') || setweight(to_tsvector('english', text), 'A')) STORED,
    PRIMARY KEY (user_id, document, number),
    FOREIGN KEY (user_id, document) REFERENCES documents (user_id, name) ON DELETE CASCADE
);
"""

USER_TABLES = ("run_steps", "agent_state", "artifacts", "tool_grants", "document_passages")

POLICY = """
ALTER TABLE {table} ENABLE ROW LEVEL SECURITY;
ALTER TABLE {table} FORCE ROW LEVEL SECURITY;
CREATE POLICY service ON {table} TO lanewise_service, lanewise_owner
    USING (user_id = current_setting('lanewise.user', true) OR current_setting('lanewise.user', true) = '*');
GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO lanewise_service;
"""

FUNCTIONS = ("append_events", "claim_run", "record_step", "record_own_step", "save_state")

GRANTS = """
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA lanewise FROM PUBLIC;
GRANT EXECUTE ON FUNCTION claim_run, record_step, save_state TO lanewise_service;
GRANT EXECUTE ON FUNCTION record_own_step TO lanewise_run;
GRANT SELECT, INSERT, DELETE ON document_passages TO lanewise_run;
CREATE POLICY run ON document_passages TO lanewise_run USING (user_id = (SELECT run_user()));
"""


def upgrade() -> None:
    """Makes everything."""
    op.execute(TABLES)
    for table in USER_TABLES:
        op.execute(POLICY.format(table=table))
    op.execute("DROP FUNCTION claim_run")  # its answer has a column more; an older worker does not mind
    for name in FUNCTIONS:
        op.execute((files("shared.migrations") / "sql" / "0002" / f"{name}.sql").read_text())
    op.execute(GRANTS)
