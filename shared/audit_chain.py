"""The chain of seals over the audit trail, which makes it evident what was changed, removed, added or cut off.

A seal covers the ids and MACs of its records and the seal before it. An anchor says where the chain ends, and another
where it begins since retention has removed its oldest seals; of these the last stays, without its records. All are
signed: whoever has the database but not the key can make none of them. Whoever has the key but only the service's login
can remove none before its time, which Postgres knows by itself. An earlier end, with the anchor of that time, is well
signed: so each worker remembers the last seal that it has seen. Workers come here now and then; records are written
without a look at the chain.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import structlog
from sqlalchemy import Row, func, select, text
from sqlalchemy.orm import Session

from shared import audit
from shared.database import Database
from shared.models import AuditAnchor, AuditEntry, AuditSeal
from shared.signing import MacKeys

MAX_RECORDS = 10_000  # of a seal, and in a removal of more than one
MAX_SEALS = 100  # in a removal
BROKEN = "audit.broken"  # the action of a record: the chain's end was not as it had been left

log = structlog.get_logger(__name__)

_SEAL = text("SELECT seal_audit(:seen, CAST(:seal AS jsonb), CAST(:anchor AS jsonb))")
_TRIM = text("SELECT trim_audit(:seen, CAST(:anchor AS jsonb))")
# What is older may be removed: as this worker has it, but not against what the owner has set.
_CUT = text("SELECT least(now() - CAST(:age AS interval), now() - age) FROM audit_retention WHERE age IS NOT NULL")


@dataclass(frozen=True)
class Anchor:
    """An end of the chain.

    Args:
        name: `first` or `last`.
        seal: number of the last seal whose records retention has removed, or of the last one that there is; 0 if there
            was none yet.
        seal_mac: its MAC; empty for 0.
    """

    name: str
    seal: int
    seal_mac: str
    key_id: str = ""
    mac: str = ""

    def content(self) -> list[Any]:
        """Returns what its MAC covers."""
        return ["anchor", self.name, self.seal, self.seal_mac]

    def signed(self, keys: MacKeys) -> dict[str, Any]:
        """Returns its columns, signed."""
        return vars(self) | keys.sign(self.content())

    def holds(self, keys: MacKeys) -> bool:
        """Tells whether it is as it was signed."""
        return keys.verify(self.content(), self.key_id, self.mac)


@dataclass(frozen=True)
class Seal:
    """A link of the chain.

    Args:
        sealed_at: by Postgres' clock; RFC 3339 in UTC, as all times that are signed.
        ids: of its records, in their order.
        previous: MAC of the seal before it; empty for the first one.
        digest: of the MACs of its records, see `digest_of`.
    """

    number: int
    sealed_at: str
    ids: Sequence[str]
    previous: str
    digest: str
    key_id: str = ""
    mac: str = ""

    def content(self) -> list[Any]:
        """Returns what its MAC covers."""
        return ["seal", self.number, self.sealed_at, list(self.ids), self.previous, self.digest]

    def signed(self, keys: MacKeys) -> dict[str, Any]:
        """Returns its columns, signed."""
        return vars(self) | keys.sign(self.content())

    def holds(self, keys: MacKeys) -> bool:
        """Tells whether it is as it was signed."""
        return keys.verify(self.content(), self.key_id, self.mac)


def digest_of(macs: Iterable[str]) -> str:
    """Returns the digest of the MACs of a seal's records, in the order of their ids."""
    return hashlib.sha256("\n".join(macs).encode()).hexdigest()


class AuditChain:
    """What a worker does for the audit trail; several at once change nothing wrong.

    It remembers the last seal that it has made or read, as long as it lives; so each thread that seals has its own.

    Each method may raise `UnavailableError`: Postgres is away.

    Args:
        keys: of the trail.
        retention_days: how long sealed records are kept; longer if `lanewise migrate` was told so.
    """

    def __init__(self, database: Database, keys: MacKeys, retention_days: float) -> None:
        self._database = database
        self._keys = keys
        self._age = timedelta(days=retention_days)
        self._known = Anchor("last", 0, "")  # where the chain ended when this worker looked last

    def seal(self) -> int | None:
        """Seals the records that are not yet, up to 10,000 of them, in a new seal.

        What counts is that a record is not sealed, not its id: one that is committed late is in the next seal.

        Returns:
            the number of the chain's last seal; None if another worker was faster.
        """
        with self._database.system_session() as session:
            last, seen = self._last(session)
            found = session.execute(
                select(AuditEntry.id, AuditEntry.mac, func.now().label("now"))
                .where(AuditEntry.seal.is_(None))
                .order_by(AuditEntry.id)
                .limit(MAX_RECORDS)
            ).all()
            if not found:
                self._known = last
                return last.seal
            seal = Seal(
                last.seal + 1, audit.time_of(found[0].now), [row.id for row in found], last.seal_mac,
                digest_of(row.mac for row in found),
            ).signed(self._keys)  # fmt: skip
            anchor = Anchor("last", seal["number"], seal["mac"]).signed(self._keys)
            done = session.scalar(_SEAL, {"seen": seen, "seal": json.dumps(seal), "anchor": json.dumps(anchor)})
        # Now that it is committed; also where the chain has gone back, or that would be recorded again and again.
        self._known = Anchor("last", seal["number"], seal["mac"]) if done else last
        if not done:
            return None
        # The log is an anchor, too, which the database's owner cannot reach: see `lanewise audit verify --seal`.
        log.info("audit records are sealed", records=len(found), seal=f"{seal['number']}:{seal['mac']}")
        return last.seal + 1

    def remove_old(self) -> int:
        """Removes the records of some of the oldest seals, which are past retention; returns of how many.

        Whoever changes the age of a seal gains nothing: what does not verify is not removed, nor what follows it.
        """
        with self._database.system_session() as session:
            first = _anchor(session, "first")
            if first is None or not first.holds(self._keys):
                return 0  # `lanewise audit verify` says so
            query = select(*SEAL).where(AuditSeal.number > first.seal).order_by(AuditSeal.number).limit(MAX_SEALS)
            cut = session.scalar(_CUT, {"age": self._age})
            if cut is None:
                return 0  # nobody has said how long they are to be kept
            old = self._old_enough(first, map(seal_of, session.execute(query)), audit.time_of(cut))
            if not old:
                return 0
            anchor = Anchor("first", old[-1].number, old[-1].mac).signed(self._keys)
            done = session.scalar(_TRIM, {"seen": first.seal, "anchor": json.dumps(anchor)})
        return len(old) if done else 0

    def _old_enough(self, first: Anchor, seals: Iterable[Seal], cut: str) -> list[Seal]:
        old: list[Seal] = []
        previous, records = first.seal_mac, 0
        for seal in seals:
            records += len(seal.ids)
            if seal.sealed_at >= cut or (old and records > MAX_RECORDS):
                break
            if seal.previous != previous or not seal.holds(self._keys):
                log.error("audit records past retention stay: a seal does not verify", seal=seal.number)
                break
            old.append(seal)
            previous = seal.mac
        return old

    def _last(self, session: Session) -> tuple[Anchor, int | None]:
        """Returns where the chain ends, and what the anchor says of that if it is there.

        If the anchor is not as it was left, the chain goes on behind everything that is there, and a record tells of it
        for ever: sealing must not stop, nor make good what somebody did. So it does if the chain has gone back.
        """
        newest = session.execute(
            select(AuditSeal.number, AuditSeal.mac).order_by(AuditSeal.number.desc()).limit(1)
        ).first()
        number, mac = newest or (0, "")
        anchor = _anchor(session, "last")  # read after the seals: another worker may be at it
        seen = None if anchor is None else anchor.seal
        if anchor is None or not anchor.holds(self._keys) or anchor.seal < number:
            _broken(session, number, "no anchor" if anchor is None else "the anchor is not as it was left")
            anchor = Anchor("last", number, mac)
        if self._gone_back(session, anchor):
            known = f"{self._known.seal}:{self._known.seal_mac}"
            _broken(session, anchor.seal, f"the chain has gone back: it had the seal {known}")
        return anchor, seen

    def _gone_back(self, session: Session, last: Anchor) -> bool:
        """Tells whether the chain ends before the seal that this worker remembers, or has another in its place."""
        known = self._known
        if last.seal <= known.seal:
            return (last.seal, last.seal_mac) != (known.seal, known.seal_mac)
        mac = session.scalar(select(AuditSeal.mac).where(AuditSeal.number == known.seal))
        return mac is not None and mac != known.seal_mac  # None: by retention, or `lanewise audit verify` says so


SEAL = (
    AuditSeal.number, audit.time_in(AuditSeal.sealed_at).label("sealed_at"), AuditSeal.ids, AuditSeal.previous,
    AuditSeal.digest, AuditSeal.key_id, AuditSeal.mac,
)  # fmt: skip


def seal_of(row: Row[*tuple[Any, ...]]) -> Seal:
    """Returns a seal from the columns `SEAL`."""
    return Seal(*row)


def _broken(session: Session, end: int, outcome: str) -> None:
    """Records that the chain, which ends with this seal now, is not as it was left."""
    log.error(
        "the audit chain was tampered with, or its key is gone, or an earlier state of the database is back:"
        " see `lanewise audit verify`", seal=end, found=outcome,
    )  # fmt: skip
    audit.record(session, user_id=audit.NOBODY, actor="worker", action=BROKEN, target=f"seal {end}", outcome=outcome)


def _anchor(session: Session, name: str) -> Anchor | None:
    row = session.get(AuditAnchor, name)
    return None if row is None else anchor_of(row)


def anchor_of(row: AuditAnchor) -> Anchor:
    """Returns an anchor from its row."""
    return Anchor(row.name, row.seal, row.seal_mac, row.key_id, row.mac)
