"""The audit trail: who did what to what; a signed record for each deed, written in the transaction of the deed itself.

A record is signed by the service before it is written: the key is in no database. `shared.audit_chain` seals records.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

from sqlalchemy import ColumnElement, func, text
from sqlalchemy.orm import InstrumentedAttribute, Session

from shared.models import AuditEntry
from shared.settings import Settings
from shared.signing import MacKeys

PURPOSE = "audit"
KEYS = "audit_keys"  # under this name a session's `info` has its `MacKeys`
EPOCH = datetime.fromtimestamp(0, UTC)
NOBODY = ""  # whose data was touched, where it is not known; refused as a user id

_RECORD = text("SELECT record_audit(CAST(:record AS jsonb))")


@dataclass(frozen=True)
class Deed:
    """What is to be recorded.

    Args:
        user_id: whose data was touched, or `NOBODY`.
        actor: who did it: `user:<id>`, `worker:<id>`, `leader` or `anonymous`.
        action: a noun with its verb, e.g. `run.submit`.
        target: what it was done to, e.g. a run id.
        outcome: `ok`, or how it ended, or why not.
        detail: further JSON, without fractions; no input, no secret.
    """

    user_id: str
    actor: str
    action: str
    target: str
    outcome: str = "ok"
    correlation_id: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A deed as it is stored.

    Args:
        at: RFC 3339 in UTC with microseconds, as text: whatever somebody makes of a time, it can be read.
        id: 32 hexadecimal digits that sort by time; made by the service, as the time is.
        key_id: of the key that signed it.
        seal: number of the seal that covers it; None: not sealed yet.
    """

    id: str
    at: str
    user_id: str
    actor: str
    action: str
    object: str
    outcome: str
    correlation_id: str | None
    detail: Mapping[str, Any]
    key_id: str
    mac: str
    seal: int | None


def keys_of(settings: Settings) -> MacKeys:
    """Returns the keys of the trail: the newest secret's signs, each verifies."""
    return MacKeys(settings.audit_secrets, PURPOSE)


class Recorder(Protocol):
    """What records are written through: a session, or `Database.once`; it carries the keys."""

    @property
    def info(self) -> Mapping[Any, Any]:
        """Holds the keys under the name `KEYS`."""
        ...


def record(  # noqa: PLR0913 - the fields of a deed, all named at each call
    session: Session,
    *,
    user_id: str,
    actor: str,
    action: str,
    target: str,
    outcome: str = "ok",
    correlation_id: str | None = None,
    detail: Mapping[str, Any] | None = None,
) -> None:
    """Adds a record; see `Deed`."""
    deed = Deed(user_id, actor, action, target, outcome, correlation_id, detail or {})
    session.execute(_RECORD, {"record": to_json(session, deed)})


def to_json(recorder: Recorder, deed: Deed) -> str:
    """Returns a signed record as `record_audit` takes it, for a statement that does more than that."""
    return json.dumps(_signed(recorder, deed))


def by_number(recorder: Recorder, deeds: Sequence[Deed | None]) -> str:
    """Returns signed records by the place of their deeds, for statements about several things."""
    return json.dumps({n: _signed(recorder, deed) for n, deed in enumerate(deeds) if deed is not None})


def content(record: Record) -> list[Any]:
    """Returns what the MAC of a record covers: all that it says."""
    return [
        "record", record.id, record.at, record.user_id, record.actor, record.action, record.object, record.outcome,
        record.correlation_id, record.detail,
    ]  # fmt: skip


def time_of(moment: datetime) -> str:
    """Returns a time as it is signed."""
    return moment.astimezone(UTC).isoformat(timespec="microseconds")


def time_in(column: InstrumentedAttribute[datetime]) -> ColumnElement[str]:
    """Returns what reads a column of times as they are signed."""
    return func.to_char(func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"')


RECORD = (
    AuditEntry.id, time_in(AuditEntry.at).label("at"), AuditEntry.user_id, AuditEntry.actor, AuditEntry.action,
    AuditEntry.object, AuditEntry.outcome, AuditEntry.correlation_id, AuditEntry.detail, AuditEntry.key_id,
    AuditEntry.mac, AuditEntry.seal,
)  # fmt: skip


def _signed(recorder: Recorder, deed: Deed) -> dict[str, Any]:
    keys: MacKeys = recorder.info[KEYS]
    now_us = time.time_ns() // 1000
    made = Record(
        # Microseconds, then chance: ids sort by time, and no two are the same.
        id=f"{now_us:014x}{os.urandom(9).hex()}", at=time_of(EPOCH + timedelta(microseconds=now_us)),
        user_id=deed.user_id, actor=deed.actor, action=deed.action, object=deed.target, outcome=deed.outcome,
        correlation_id=deed.correlation_id, detail=dict(deed.detail), key_id="", mac="", seal=None,
    )  # fmt: skip
    values = vars(made) | keys.sign(content(made))
    del values["seal"]
    return values
