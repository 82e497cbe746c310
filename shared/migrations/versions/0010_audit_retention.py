"""The audit trail's past is kept from the service, too: Postgres says by its own clock what may be removed."""

from importlib.resources import files

from alembic import op

revision = "0010"
down_revision = "0009"

# One row. `lanewise migrate` sets the age from LANEWISE_AUDIT_RETENTION_DAYS; the service may only read it. While it is
# null nothing may be removed. What is older than `gone_before` may have been removed when the age was a shorter one.
TABLES = """
CREATE TABLE audit_retention (
    age interval,
    gone_before timestamptz NOT NULL DEFAULT '-infinity'
);
CREATE UNIQUE INDEX audit_retention_is_one_row ON audit_retention ((true));
INSERT INTO audit_retention DEFAULT VALUES;
GRANT SELECT ON audit_retention TO lanewise_service;
"""

FUNCTIONS = ("record_audit", "seal_audit", "trim_audit")


def upgrade() -> None:
    """Makes everything."""
    op.execute(TABLES)
    for name in FUNCTIONS:
        op.execute((files("shared.migrations") / "sql" / "0010" / f"{name}.sql").read_text())
