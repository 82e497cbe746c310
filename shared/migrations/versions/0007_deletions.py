"""Users who are being deleted."""

from importlib.resources import files

from alembic import op

revision = "0007"
down_revision = "0006"

TABLE = """
CREATE TABLE deletions (
    user_id text PRIMARY KEY,
    requested_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- How many rows are gone so far, by table.
    removed jsonb NOT NULL DEFAULT '{}',
    -- Since when there is nothing left in any table.
    emptied_at timestamptz
);
ALTER TABLE deletions ENABLE ROW LEVEL SECURITY;
ALTER TABLE deletions FORCE ROW LEVEL SECURITY;
CREATE POLICY service ON deletions TO lanewise_service, lanewise_owner
    USING (user_id = current_setting('lanewise.user', true) OR current_setting('lanewise.user', true) = '*');
GRANT SELECT, INSERT, UPDATE, DELETE ON deletions TO lanewise_service;
"""

# What a user, or an administrator for a user, makes out of nothing.
REFUSING = ("threads", "runs", "documents", "user_limits", "tool_grants")

TRIGGER = """
CREATE TRIGGER refuse_deleted BEFORE INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION refuse_deleted();
"""


def upgrade() -> None:
    """Makes everything."""
    op.execute(TABLE)
    op.execute((files("shared.migrations") / "sql" / "0007" / "refuse_deleted.sql").read_text())
    op.execute("REVOKE EXECUTE ON FUNCTION refuse_deleted FROM PUBLIC")
    for table in REFUSING:
        op.execute(TRIGGER.format(table=table))
