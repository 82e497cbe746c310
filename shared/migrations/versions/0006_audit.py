"""The audit trail, tamper-evident: every record signed, the records sealed in a chain, the chain's ends anchored."""

from importlib.resources import files

from alembic import context, op
from sqlalchemy import select, text

from shared import audit
from shared.audit_chain import Anchor
from shared.models import AuditEntry
from shared.signing import MacKeys

revision = "0006"
down_revision = "0005"

TABLES = """
-- Ids were numbers of the database's; now the service makes them, because it signs them. Old ones stay the oldest.
ALTER TABLE audit_log ALTER COLUMN id DROP IDENTITY;
ALTER TABLE audit_log ALTER COLUMN id TYPE text USING lpad(id::text, 32, '0');
ALTER TABLE audit_log ALTER COLUMN at DROP DEFAULT;
ALTER TABLE audit_log
    ADD COLUMN key_id text NOT NULL DEFAULT '',
    ADD COLUMN mac text NOT NULL DEFAULT '',
    ADD COLUMN seal bigint;
ALTER TABLE audit_log ALTER COLUMN key_id DROP DEFAULT, ALTER COLUMN mac DROP DEFAULT;
CREATE INDEX audit_log_by_user ON audit_log (user_id, id);
CREATE INDEX audit_log_unsealed ON audit_log (id) WHERE seal IS NULL;
CREATE INDEX audit_log_sealed ON audit_log (seal, id) WHERE seal IS NOT NULL;
CREATE TABLE audit_seals (
    number bigint PRIMARY KEY,
    sealed_at timestamptz NOT NULL,
    ids text[] NOT NULL,
    previous text NOT NULL,
    digest text NOT NULL,
    key_id text NOT NULL,
    mac text NOT NULL
);
-- Where the chain begins (`first`: the last seal that retention removed) and ends (`last`); 0 before the first seal.
CREATE TABLE audit_anchors (
    name text PRIMARY KEY,
    seal bigint NOT NULL,
    seal_mac text NOT NULL,
    key_id text NOT NULL,
    mac text NOT NULL
);
"""

FUNCTIONS = ("accept_run", "end_run", "record_audit", "seal_audit", "trim_audit")

GRANTS = """
REVOKE ALL ON audit_log FROM lanewise_service;
GRANT SELECT ON audit_log, audit_seals, audit_anchors TO lanewise_service;
REVOKE EXECUTE ON FUNCTION end_run, record_audit, seal_audit, trim_audit FROM PUBLIC;
GRANT EXECUTE ON FUNCTION end_run, record_audit, seal_audit, trim_audit TO lanewise_service;
"""

RECORDS_AT_ONCE = 10_000


def upgrade() -> None:
    """Makes everything, and signs the records that are there."""
    op.execute("SELECT set_config('lanewise.user', '*', true)")
    op.execute(TABLES)
    op.execute("DROP FUNCTION end_run")  # the audit record is no longer its work
    for name in FUNCTIONS:
        op.execute((files("shared.migrations") / "sql" / "0006" / f"{name}.sql").read_text())
    op.execute(GRANTS)
    keys = MacKeys(context.config.attributes["secrets"], audit.PURPOSE)
    for name in ("first", "last"):
        anchor = Anchor(name, 0, "").signed(keys)
        op.get_bind().execute(text("INSERT INTO audit_anchors VALUES (:name, :seal, :seal_mac, :key_id, :mac)"), anchor)
    _sign_old(keys)


def _sign_old(keys: MacKeys) -> None:
    some = select(*audit.RECORD).order_by(AuditEntry.id).limit(RECORDS_AT_ONCE)
    sign = text("UPDATE audit_log SET key_id = :key_id, mac = :mac WHERE id = :id")
    after = ""
    while rows := op.get_bind().execute(some.where(AuditEntry.id > after)).all():
        op.get_bind().execute(sign, [{"id": row.id, **keys.sign(audit.content(audit.Record(*row)))} for row in rows])
        after = rows[-1].id
