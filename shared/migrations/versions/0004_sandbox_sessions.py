"""Sessions of sandboxes, seen and ended from outside."""

from importlib.resources import files

from alembic import op

revision = "0004"
down_revision = "0003"

FUNCTIONS = ("sandbox_sessions", "end_sandbox_session")

GRANTS = """
REVOKE EXECUTE ON FUNCTION sandbox_sessions, end_sandbox_session FROM PUBLIC;
GRANT EXECUTE ON FUNCTION sandbox_sessions, end_sandbox_session TO lanewise_service;
"""


def upgrade() -> None:
    """Makes everything."""
    for name in FUNCTIONS:
        op.execute((files("shared.migrations") / "sql" / "0004" / f"{name}.sql").read_text())
    op.execute(GRANTS)
