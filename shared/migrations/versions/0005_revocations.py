"""Until when a user's tokens are refused."""

from alembic import op

revision = "0005"
down_revision = "0004"

TABLE = """
CREATE TABLE revocations (
    user_id text PRIMARY KEY,
    -- Tokens issued up to then are refused.
    revoked_at timestamptz NOT NULL
);
-- What api processes have not seen yet.
CREATE INDEX revocations_by_time ON revocations (revoked_at);
ALTER TABLE revocations ENABLE ROW LEVEL SECURITY;
ALTER TABLE revocations FORCE ROW LEVEL SECURITY;
CREATE POLICY service ON revocations TO lanewise_service, lanewise_owner
    USING (user_id = current_setting('lanewise.user', true) OR current_setting('lanewise.user', true) = '*');
GRANT SELECT, INSERT, UPDATE, DELETE ON revocations TO lanewise_service;
"""


def upgrade() -> None:
    """Makes everything."""
    op.execute(TABLE)
