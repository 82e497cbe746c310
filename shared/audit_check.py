"""Verification of the audit trail: what was changed, removed, added or cut off, record by record."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from operator import attrgetter
from typing import Any

from sqlalchemy import Row, Select, select, text
from sqlalchemy.orm import Session

from shared import audit
from shared.audit import RECORD, Record
from shared.audit_chain import BROKEN, SEAL, Anchor, Seal, anchor_of, digest_of, seal_of
from shared.database import Database
from shared.models import AuditAnchor, AuditEntry, AuditSeal
from shared.signing import MacKeys

AT_ONCE = 1000  # rows that are in memory, besides those of one seal
_HAS_KEY = text("""
    SELECT EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = 'audit_log'::regclass AND i.indisunique AND i.indisvalid AND i.indnatts = 1
            AND i.indpred IS NULL AND a.attname = 'id')
""")
_CUT = text("SELECT greatest(now() - age, gone_before) FROM audit_retention WHERE age IS NOT NULL")


@dataclass(frozen=True)
class Flaw:
    """Something that is not as it was written.

    Args:
        kind: `record_edited`, `record_removed`, `record_added`, `seal_edited`, `seal_removed`, `head_cut`, `tail_cut`,
            `anchor_edited`, `unknown_key`, or `tampering_recorded`: a worker found it, and wrote a record.
        where: the record, seal or anchor.
        detail: for people.
    """

    kind: str
    where: str
    detail: str


@dataclass
class Trail:
    """The audit trail as it is stored; each part can be read once, in order.

    Args:
        anchors: by name.
        seals: by number.
        records: by seal and id; those that are not sealed yet at the end.
        cut: what was sealed since must be there; empty: all.
    """

    anchors: Mapping[str, Anchor]
    seals: Iterable[Seal]
    records: Iterable[Record]
    cut: str = ""


@dataclass
class Examination:
    """Looks at all of a trail, and counts.

    Args:
        keys: that records and seals may be signed with.
        known: MACs of seals by number, from where nobody can have changed them: the log, or an earlier examination.
        after: number of the last seal whose records retention has removed; 0: none.
        since: when that seal was made, or the oldest one that is there; None: there is none.
        removed: the known seals that retention has removed: whether their MACs were right can no longer be told.
    """

    keys: MacKeys
    known: Mapping[int, str] = field(default_factory=dict)
    records: int = 0
    unsealed: int = 0
    seals: int = 0
    last: str = "0:"
    after: int = 0
    since: str | None = None
    removed: list[int] = field(default_factory=list)

    def look(self, trail: Trail) -> Iterator[Flaw]:
        """Yields what is wrong, in the order in which it is found; nothing if all is as it was written."""
        yield from self._anchors(trail.anchors)
        first = trail.anchors.get("first") or Anchor("first", 0, "")
        number, mac, oldest, unseen = first.seal, first.seal_mac, None, dict(self.known)
        self.after = number
        batches = groupby(trail.records, attrgetter("seal"))
        batch = next(batches, None)
        for seal in trail.seals:
            self.since = self.since or seal.sealed_at
            while batch is not None and batch[0] is not None and batch[0] < seal.number:
                yield from self._stray(list(batch[1]))
                batch = next(batches, None)
            records: list[Record] = []
            if batch is not None and batch[0] == seal.number:
                records, batch = list(batch[1]), next(batches, None)
            if seal.number == first.seal:
                oldest = seal
                yield from self._stray(records)
            else:
                yield from self._link(seal, number, mac)
                yield from self._sealed(seal, records)
                number, mac = seal.number, seal.mac
            known_mac = unseen.pop(seal.number, seal.mac)
            if known_mac != seal.mac:
                yield Flaw("seal_edited", f"seal {seal.number}", f"its MAC was {known_mac}")
        while batch is not None:
            yield from self._stray(list(batch[1]))
            batch = next(batches, None)
        aged = yield from self._beginning(first, oldest, trail.cut)
        yield from self._end(trail.anchors.get("last"), number, mac)
        for known in sorted(unseen):
            yield from self._gone(known, number, aged=aged)
        self.last = f"{number}:{mac}"

    def _anchors(self, anchors: Mapping[str, Anchor]) -> Iterator[Flaw]:
        for name in ("first", "last"):
            anchor = anchors.get(name)
            if anchor is None:
                yield Flaw("anchor_edited", f"anchor {name}", "it is missing")
            elif not self.keys.knows(anchor.key_id):
                yield self._unknown_key(f"anchor {name}", anchor.key_id)
            elif not anchor.holds(self.keys):
                yield Flaw("anchor_edited", f"anchor {name}", "it is not as it was signed")

    def _beginning(self, first: Anchor, oldest: Seal | None, cut: str) -> Generator[Flaw, None, bool]:
        """Looks at the seal that stays without its records; returns whether it is old enough to be without."""
        where = f"seal {first.seal}"
        if first.seal == 0:
            return False
        if oldest is None:
            yield Flaw("seal_removed", where, "missing; it would tell how old the records were that are gone")
        elif not self.keys.knows(oldest.key_id):
            yield self._unknown_key(where, oldest.key_id)
        elif not oldest.holds(self.keys):
            yield Flaw("seal_edited", where, "it is not as it was signed")
        elif oldest.mac != first.seal_mac:
            yield Flaw("seal_edited", where, "it is not the one that the trail begins after")
        elif oldest.sealed_at >= cut:
            kept = f"what was sealed since {cut or 'ever'} is kept"
            yield Flaw("head_cut", where, f"of {oldest.sealed_at}: gone up to there, with the records; {kept}")
        else:
            return first.holds(self.keys)
        return False

    def _gone(self, known: int, last: int, *, aged: bool) -> Iterator[Flaw]:
        """Says why a known seal is not there: because of its age, or because somebody has removed it."""
        where = f"seal {known}"
        if known > last:
            yield Flaw("tail_cut", where, f"it has been there; the chain ends with seal {last}")
        elif known > self.after:
            yield Flaw("seal_removed", where, "it has been there")
        elif aged and known > 0:
            self.removed.append(known)
        else:
            begins = f"the trail begins after seal {self.after}"
            yield Flaw("head_cut", where, f"it is gone, and not for its age; {begins}")

    def _link(self, seal: Seal, before: int, mac: str) -> Iterator[Flaw]:
        """Looks at a seal by itself and at what it says of the one before."""
        self.seals += 1
        where = f"seal {seal.number}"
        if not self.keys.knows(seal.key_id):
            yield self._unknown_key(where, seal.key_id)
        elif not seal.holds(self.keys):
            yield Flaw("seal_edited", where, "it is not as it was signed")
        if seal.number > before + 1:
            gone = f"seals {before + 1} to {seal.number - 1}" if seal.number > before + 2 else f"seal {before + 1}"
            yield Flaw("seal_removed", gone, "missing, with what they sealed")
        elif seal.number != before + 1:
            yield Flaw("seal_edited", where, "it is older than the beginning of the chain, or there twice")
        elif seal.previous != mac:
            yield Flaw("seal_edited", where, "it does not follow the seal before it")

    def _sealed(self, seal: Seal, records: Sequence[Record]) -> Iterator[Flaw]:
        edited = False
        for record in records:
            for flaw in self._record(record):
                edited = True
                yield flaw
        found, sealed = [record.id for record in records], list(seal.ids)
        if found == sealed:
            if not edited and digest_of(record.mac for record in records) != seal.digest:
                yield Flaw("record_edited", f"seal {seal.number}", "its records were signed anew")
            return
        where = f"seal {seal.number} of {seal.sealed_at}"
        for gone in sorted(set(sealed) - set(found)):
            yield Flaw("record_removed", f"record {gone}", f"missing from {where}")
        for new in sorted(set(found) - set(sealed)):
            yield Flaw("record_added", f"record {new}", f"it was not there when {where} was made")
        if set(found) == set(sealed):
            yield Flaw("record_added", where, "it has records twice")

    def _stray(self, records: Sequence[Record]) -> Iterator[Flaw]:
        """Looks at records that no seal covers: those that are not sealed yet, and those whose seal is gone."""
        for record in records:
            if record.seal is None:
                self.unsealed += 1
            else:
                yield Flaw("record_added", f"record {record.id}", f"no seal {record.seal} covers it")
            yield from self._record(record)

    def _record(self, record: Record) -> Iterator[Flaw]:
        self.records += 1
        where = f"record {record.id}"
        if not self.keys.knows(record.key_id):
            yield self._unknown_key(where, record.key_id)
        elif not self.keys.verify(audit.content(record), record.key_id, record.mac):
            said = f"{record.at} {record.actor} {record.action} {record.object}: {record.outcome}"
            yield Flaw("record_edited", where, f"it is not as it was signed; it says: {said}")
        elif record.action == BROKEN:
            yield Flaw("tampering_recorded", where, f"at {record.at}: {record.outcome}")

    def _end(self, last: Anchor | None, number: int, mac: str) -> Iterator[Flaw]:
        if last is None or (last.seal, last.seal_mac) == (number, mac):
            return
        if last.seal > number:
            yield Flaw("tail_cut", f"seal {last.seal}", f"the chain ended there; now it ends with seal {number}")
        else:
            yield Flaw("anchor_edited", "anchor last", f"it names seal {last.seal}; the chain ends with seal {number}")

    @staticmethod
    def _unknown_key(where: str, key_id: str) -> Flaw:
        return Flaw("unknown_key", where, f"signed with the key {key_id}, which is not in the settings")


def examine(database: Database, examination: Examination) -> Iterator[Flaw]:
    """Looks at the trail in the database, as it is at one moment, some rows at a time; yields what is wrong.

    Raises:
        UnavailableError: Postgres is away.
    """
    with database.system_session(repeatable=True) as session:
        if not session.scalar(_HAS_KEY):
            yield Flaw("record_added", "audit_log", "its unique key is gone: records may be there twice")
        yield from examination.look(_read(session))


def _read(session: Session) -> Trail:
    def rows(query: Select[*tuple[Any, ...]]) -> Iterator[Row[*tuple[Any, ...]]]:
        yield from session.execute(query.execution_options(yield_per=AT_ONCE))

    seals = (seal_of(row) for row in rows(select(*SEAL).order_by(AuditSeal.number)))
    sealed = rows(select(*RECORD).where(AuditEntry.seal.is_not(None)).order_by(AuditEntry.seal, AuditEntry.id))
    unsealed = rows(select(*RECORD).where(AuditEntry.seal.is_(None)).order_by(AuditEntry.id))
    records = (Record(*row) for row in chain(sealed, unsealed))
    cut = session.scalar(_CUT)
    anchors = {row.name: anchor_of(row) for row in session.scalars(select(AuditAnchor))}
    return Trail(anchors, seals, records, audit.time_of(cut) if cut else "")
