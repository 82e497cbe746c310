"""The tables, as SQLAlchemy sees them. Migrations make them; a test holds the two together.

Every table with a `user_id` has composite keys that begin with it and forced row level security, so that a forgotten
filter finds nothing instead of somebody else's rows.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Computed,
    DateTime,
    ForeignKeyConstraint,
    Index,
    LargeBinary,
    MetaData,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, TSVECTOR
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA = "lanewise"
OWNER, SERVICE, RUN = "lanewise_owner", "lanewise_service", "lanewise_run"  # roles, of which logins are members
NOW = text("now()")
CLOCK = text("clock_timestamp()")


class Base(DeclarativeBase):
    """What all tables share: the schema, and times with zones."""

    metadata = MetaData(schema=SCHEMA)
    type_annotation_map = {  # noqa: RUF012 - SQLAlchemy reads it as a class attribute
        datetime: DateTime(timezone=True),
        str: Text,
        dict[str, Any]: JSONB,
        list[str]: ARRAY(Text),
    }


def _of_a_run() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["user_id", "run_id"], [f"{SCHEMA}.runs.user_id", f"{SCHEMA}.runs.id"], ondelete="CASCADE"
    )


class Agent(Base):
    """The catalogue: what workers said they can run. The api knows agents from here only."""

    __tablename__ = "agents"
    name: Mapped[str] = mapped_column(primary_key=True)
    description: Mapped[str]
    input_schema: Mapped[dict[str, Any]]
    queue: Mapped[str]
    time_limit_s: Mapped[float]
    max_attempts: Mapped[int]
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Worker(Base):
    """A running worker and its last sign of life, in database time."""

    __tablename__ = "workers"
    id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str]
    agents: Mapped[list[str]]
    queues: Mapped[list[str]]
    slots: Mapped[int]
    lease_s: Mapped[float] = mapped_column(server_default=text("15"))
    draining: Mapped[bool] = mapped_column(server_default=text("false"))
    started_at: Mapped[datetime] = mapped_column(server_default=NOW)
    heartbeat_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Lease(Base):
    """Leadership: whoever holds the row until `expires_at`."""

    __tablename__ = "leases"
    name: Mapped[str] = mapped_column(primary_key=True)
    holder: Mapped[str]
    expires_at: Mapped[datetime]


class UserStream(Base):
    """The head of a user's event log, the last `seq` given; and what is known of the user's queue."""

    __tablename__ = "user_streams"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    head: Mapped[int] = mapped_column(BigInteger)
    queued: Mapped[int] = mapped_column(server_default=text("0"))
    run_s: Mapped[float | None]
    positions_at: Mapped[datetime | None]
    trimmed: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))


class UserLimit(Base):
    """Limits of one user where they differ from the settings' defaults."""

    __tablename__ = "user_limits"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    concurrent_runs: Mapped[int | None]
    queued_runs: Mapped[int | None]


class Revocation(Base):
    """A user whose tokens are refused that were issued up to `revoked_at`."""

    __tablename__ = "revocations"
    __table_args__ = (Index("revocations_by_time", "revoked_at"),)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    revoked_at: Mapped[datetime]


class Deletion(Base):
    """A user who is being deleted; the row goes last. Nothing new of the user is accepted while it is there."""

    __tablename__ = "deletions"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    requested_at: Mapped[datetime] = mapped_column(server_default=CLOCK)
    removed: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    emptied_at: Mapped[datetime | None]


class Thread(Base):
    """A conversation: runs that belong together."""

    __tablename__ = "threads"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    title: Mapped[str | None]
    meta: Mapped[dict[str, Any]] = mapped_column("metadata")
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    deleted_at: Mapped[datetime | None]


class Run(Base):
    """One job of one user. `attempt` is the fence: only its present owner may write."""

    __tablename__ = "runs"
    __table_args__ = (
        # Parked runs of a user in their order, and what the leader looks for; small, because runs leave them.
        Index("runs_parked", "user_id", "created_at", "id", postgresql_where=text("status = 'queued'")),
        Index("runs_granted", "user_id", postgresql_where=text("status = 'queued' AND granted_at IS NOT NULL")),
        Index("runs_running", "user_id", "worker_id", postgresql_where=text("status = 'running'")),
        Index("runs_by_thread", "user_id", "thread_id"),
        Index("runs_ended", "finished_at", postgresql_where=text("finished_at IS NOT NULL")),
        ForeignKeyConstraint(
            ["user_id", "thread_id"], [f"{SCHEMA}.threads.user_id", f"{SCHEMA}.threads.id"], ondelete="CASCADE"
        ),
    )
    user_id: Mapped[str] = mapped_column(primary_key=True)
    id: Mapped[str] = mapped_column(primary_key=True)
    thread_id: Mapped[str]
    agent: Mapped[str]
    queue: Mapped[str]
    status: Mapped[str]
    input: Mapped[Any] = mapped_column(JSONB)
    output: Mapped[Any | None] = mapped_column(JSONB)
    error: Mapped[dict[str, Any] | None]
    meta: Mapped[dict[str, Any]] = mapped_column("metadata")
    context: Mapped[dict[str, Any]]
    correlation_id: Mapped[str]
    attempt: Mapped[int] = mapped_column(server_default=text("0"))
    lost_attempts: Mapped[int] = mapped_column(server_default=text("0"))
    max_attempts: Mapped[int]
    time_limit_s: Mapped[float]
    ran_s: Mapped[float] = mapped_column(server_default=text("0"))
    usage: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'"))
    progress: Mapped[float] = mapped_column(server_default=text("0"))
    progress_note: Mapped[str] = mapped_column(server_default=text("''"))
    last_run_seq: Mapped[int] = mapped_column(server_default=text("0"))
    worker_id: Mapped[str | None]
    not_before: Mapped[datetime | None]
    lost: Mapped[list[dict[str, Any]]] = mapped_column(JSONB, server_default=text("'[]'"))
    emitted: Mapped[int] = mapped_column(server_default=text("0"))
    position_told: Mapped[int | None]
    retry_of: Mapped[str | None]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    granted_at: Mapped[datetime | None]
    sent_at: Mapped[datetime | None]
    sends: Mapped[int] = mapped_column(server_default=text("0"))
    cancel_requested_at: Mapped[datetime | None]
    claimed_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class RunEvent(Base):
    """The log: `seq` is gapless per user, `run_seq` gapless per run."""

    __tablename__ = "run_events"
    __table_args__ = (UniqueConstraint("user_id", "run_id", "run_seq", name="run_events_by_run"),)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    seq: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    run_id: Mapped[str]
    run_seq: Mapped[int]
    thread_id: Mapped[str]
    attempt: Mapped[int]
    type: Mapped[str]
    agent: Mapped[str]
    at: Mapped[datetime] = mapped_column(server_default=NOW)
    correlation_id: Mapped[str]
    data: Mapped[dict[str, Any]]


class Document(Base):
    """A file of the user's, for the research and data agents."""

    __tablename__ = "documents"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    content_type: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    content: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)
    updated_at: Mapped[datetime] = mapped_column(server_default=NOW)


class Passage(Base):
    """A passage of a document, with the words that full text search finds it by."""

    __tablename__ = "document_passages"
    __table_args__ = (
        ForeignKeyConstraint(
            ["user_id", "document"], [f"{SCHEMA}.documents.user_id", f"{SCHEMA}.documents.name"], ondelete="CASCADE"
        ),
    )
    user_id: Mapped[str] = mapped_column(primary_key=True)
    document: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    heading: Mapped[str]
    page: Mapped[int | None]
    start_char: Mapped[int]
    end_char: Mapped[int]
    text: Mapped[str]
    words: Mapped[str] = mapped_column(
        TSVECTOR,
        Computed("setweight(to_tsvector('english', heading), 'B') || setweight(to_tsvector('english', text), 'A')"),
    )


class RunStep(Base):
    """The result of a step of a run, which is not done again."""

    __tablename__ = "run_steps"
    __table_args__ = (_of_a_run(),)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    attempt: Mapped[int]
    size: Mapped[int]
    result: Mapped[Any] = mapped_column(JSON)
    recorded_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class AgentState(Base):
    """What an agent remembers: of a thread (`run_id` is empty), or of a run."""

    __tablename__ = "agent_state"
    __table_args__ = (
        Index("agent_state_by_run", "user_id", "run_id"),
        ForeignKeyConstraint(
            ["user_id", "thread_id"], [f"{SCHEMA}.threads.user_id", f"{SCHEMA}.threads.id"], ondelete="CASCADE"
        ),
    )
    user_id: Mapped[str] = mapped_column(primary_key=True)
    thread_id: Mapped[str] = mapped_column(primary_key=True)
    agent: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(BigInteger)
    value: Mapped[Any] = mapped_column(JSON)
    saved_by: Mapped[str]
    saved_at: Mapped[datetime] = mapped_column(server_default=CLOCK)


class Artifact(Base):
    """A file that an agent saved for the user of its run."""

    __tablename__ = "artifacts"
    __table_args__ = (_of_a_run(),)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    content_type: Mapped[str]
    size: Mapped[int] = mapped_column(BigInteger)
    sha256: Mapped[str]
    content: Mapped[bytes] = mapped_column(LargeBinary)
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class ToolGrant(Base):
    """A tool that needs a grant, and a user who has one."""

    __tablename__ = "tool_grants"
    user_id: Mapped[str] = mapped_column(primary_key=True)
    tool: Mapped[str] = mapped_column(primary_key=True)
    granted_by: Mapped[str]
    granted_at: Mapped[datetime] = mapped_column(server_default=NOW)
    expires_at: Mapped[datetime | None]


class IdempotencyKey(Base):
    """Which run an Idempotency-Key made, and from what body."""

    __tablename__ = "idempotency_keys"
    __table_args__ = (Index("idempotency_keys_by_run", "user_id", "run_id"),)
    user_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str]
    run_id: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=NOW)


class AuditEntry(Base):
    """A record of the audit trail, see `shared.audit`. The service adds and seals by functions only."""

    __tablename__ = "audit_log"
    __table_args__ = (
        Index("audit_log_by_user", "user_id", "id"),
        Index("audit_log_unsealed", "id", postgresql_where=text("seal IS NULL")),
        Index("audit_log_sealed", "seal", "id", postgresql_where=text("seal IS NOT NULL")),
    )
    id: Mapped[str] = mapped_column(primary_key=True)
    at: Mapped[datetime]
    user_id: Mapped[str]
    actor: Mapped[str]
    action: Mapped[str]
    object: Mapped[str]
    outcome: Mapped[str]
    correlation_id: Mapped[str | None]
    detail: Mapped[dict[str, Any]]
    key_id: Mapped[str]
    mac: Mapped[str]
    seal: Mapped[int | None] = mapped_column(BigInteger)


class AuditSeal(Base):
    """A seal over some records of the audit trail and over the seal before it, see `shared.audit_chain`."""

    __tablename__ = "audit_seals"
    number: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    sealed_at: Mapped[datetime]
    ids: Mapped[list[str]]
    previous: Mapped[str]
    digest: Mapped[str]
    key_id: Mapped[str]
    mac: Mapped[str]


class AuditAnchor(Base):
    """Where the chain of seals begins, and where it ends."""

    __tablename__ = "audit_anchors"
    name: Mapped[str] = mapped_column(primary_key=True)
    seal: Mapped[int] = mapped_column(BigInteger)
    seal_mac: Mapped[str]
    key_id: Mapped[str]
    mac: Mapped[str]
