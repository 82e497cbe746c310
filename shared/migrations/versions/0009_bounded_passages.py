"""Bounds what a sandbox, which makes the passages of its user's documents by itself, can store as such, and when."""

from importlib.resources import files

from alembic import op

revision = "0009"
down_revision = "0008"

# The splitter keeps well within: 5,000 passages of 1,000 characters; number 0 holds its notes.
BOUNDS = """
ALTER TABLE document_passages
    ADD CONSTRAINT bounded_number CHECK (number BETWEEN 0 AND 5000),
    ADD CONSTRAINT bounded_size CHECK (
        char_length(text) <= 4000 AND char_length(heading) <= 2000 AND char_length(sha256) <= 64
    );
CREATE TRIGGER hold_own_run BEFORE INSERT ON document_passages EXECUTE FUNCTION hold_own_run();
"""


def upgrade() -> None:
    """Makes everything."""
    for name in ("hold_own_run", "clear_own_passages"):
        op.execute((files("shared.migrations") / "sql" / "0009" / f"{name}.sql").read_text())
    op.execute(BOUNDS)
