"""An audit trail in memory, as the fleet would have left it, and ways to tamper with it."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, fields, replace
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from shared import audit
from shared.audit import Record
from shared.audit_chain import Anchor, Seal, digest_of
from shared.audit_check import Examination, Flaw, Trail, examine
from shared.database import Database
from shared.models import AuditAnchor, AuditEntry, AuditSeal
from shared.signing import MacKeys

OTHER_KEYS = MacKeys(["not-the-fleets-" + "0" * 32], audit.PURPOSE)
RECORD_TEXTS = ("at", "user_id", "actor", "action", "object", "outcome", "key_id", "mac")


@dataclass
class Stored:
    """The rows of the three tables; `seal` of a record is what decides where it stands.

    Args:
        keys: the fleet's, for what it has signed at an earlier time, and for what somebody does who has taken them.
        known: MACs of seals that have to be remembered outside, or what was done cannot be told.
    """

    records: list[Record]
    seals: list[Seal]
    anchors: dict[str, Anchor]
    keys: MacKeys = OTHER_KEYS
    known: dict[int, str] = field(default_factory=dict)

    def flaws(self, keys: MacKeys, known: dict[int, str] | None = None, cut: str = "") -> list[Flaw]:
        """Verifies it; see `trail`."""
        return list(Examination(keys, known or {}).look(self.trail(cut)))

    def trail(self, cut: str = "") -> Trail:
        """Returns it with the rows in the order in which the database gives them.

        Args:
            cut: what was sealed since must be there; empty: all.
        """
        sealed = sorted((r for r in self.records if r.seal is not None), key=lambda r: (r.seal or 0, r.id))
        unsealed = sorted((r for r in self.records if r.seal is None), key=lambda r: r.id)
        return Trail(self.anchors, sorted(self.seals, key=lambda s: s.number), [*sealed, *unsealed], cut)


def a_record(keys: MacKeys, number: int, seal: int | None) -> Record:
    record = Record(
        f"{number:014x}{number * 7919 % 16**18:018x}", f"2026-11-28T12:00:00.{number:06d}+00:00", f"user-{number % 3}",
        f"user:user-{number % 3}", ("run.submit", "run.end", "admin.grants.put")[number % 3], f"{number:032x}", "ok",
        f"{number:032x}" if number % 4 else None, {"tools": {"pay": None}, "count": number}, "", "", seal,
    )  # fmt: skip
    return signed(record, keys)


def signed(record: Record, keys: MacKeys) -> Record:
    """Returns the record, signed anew."""
    mac = keys.sign(audit.content(record))
    return replace(record, key_id=mac["key_id"], mac=mac["mac"])


def sealed(keys: MacKeys, sizes: list[int], unsealed: int = 0) -> Stored:
    """Returns a trail with a seal of each size, and records that are not sealed yet."""
    records: list[Record] = []
    seals: list[Seal] = []
    previous = ""
    for number, size in enumerate(sizes, 1):
        batch = [a_record(keys, len(records) + n, number) for n in range(size)]
        records += batch
        at = f"2026-11-28T12:00:{number:02d}.000000+00:00"
        seal = Seal(number, at, [r.id for r in batch], previous, digest_of(r.mac for r in batch))
        seals.append(Seal(**seal.signed(keys)))
        previous = seals[-1].mac
    records += [a_record(keys, len(records) + n, None) for n in range(unsealed)]
    ends = (Anchor("first", 0, ""), Anchor("last", len(sizes), previous))
    return Stored(records, seals, {end.name: Anchor(**end.signed(keys)) for end in ends}, keys)


def trim(stored: Stored, gone: int) -> None:
    """Does what the fleet's retention does, up to a seal."""
    (last,) = [s for s in stored.seals if s.number == gone]
    stored.seals[:] = [s for s in stored.seals if s.number >= gone]
    stored.records[:] = [r for r in stored.records if r.seal is None or r.seal > gone]
    stored.anchors["first"] = Anchor(**Anchor("first", gone, last.mac).signed(stored.keys))


# What somebody can do who has all rights in the database, and no key. Each changes the rows that it is given.


def edit_record(stored: Stored, chance: random.Random) -> None:
    place = chance.randrange(len(stored.records))
    name = chance.choice((*RECORD_TEXTS, "id", "correlation_id", "detail"))
    stored.records[place] = replace(stored.records[place], **{name: _other(stored.records[place], name, chance)})


def edit_and_sign_with_another_key(stored: Stored, chance: random.Random) -> None:
    place = chance.randrange(len(stored.records))
    forged = signed(replace(stored.records[place], outcome="never happened"), OTHER_KEYS)
    if chance.random() < 0.5:
        forged = replace(forged, key_id=stored.records[place].key_id)
    stored.records[place] = forged


def remove_records(stored: Stored, chance: random.Random) -> None:
    """Only sealed ones: what is not sealed yet can vanish unseen, for five seconds."""
    some = [r for r in stored.records if r.seal is not None]
    gone = {r.id for r in chance.sample(some, chance.randint(1, 3))}
    stored.records[:] = [r for r in stored.records if r.id not in gone]


def swap_contents(stored: Stored, chance: random.Random) -> None:
    """What two records say, with or without MACs and ids."""
    one, two = chance.sample(range(len(stored.records)), 2)
    names = chance.choice((("action", "object"), ("id",), ("mac",), ("actor", "user_id", "object", "action")))
    a, b = stored.records[one], stored.records[two]
    stored.records[one] = replace(a, **{name: getattr(b, name) for name in names})
    stored.records[two] = replace(b, **{name: getattr(a, name) for name in names})


def swap_places(stored: Stored, chance: random.Random) -> None:
    """Two records between their seals."""
    one, two = chance.sample(range(len(stored.records)), 2)
    a, b = stored.records[one], stored.records[two]
    stored.records[one], stored.records[two] = replace(a, seal=b.seal), replace(b, seal=a.seal)


def move_record(stored: Stored, chance: random.Random) -> None:
    """To another seal, to none, or out of one."""
    place = chance.choice([n for n, r in enumerate(stored.records) if r.seal is not None])
    other = chance.choice((None, 0, len(stored.seals) + 1, chance.randint(1, len(stored.seals))))
    stored.records[place] = replace(stored.records[place], seal=other)


def add_record(stored: Stored, chance: random.Random) -> None:
    """A forged one, or a copy under a seal that has it not; the table's key keeps a copy out that is not sealed."""
    model = chance.choice(stored.records)
    seal = chance.choice((None, chance.randint(1, len(stored.seals))))
    if seal is None or chance.random() < 0.5:
        model = replace(model, id=f"{chance.getrandbits(128):032x}")
    stored.records.append(replace(model, seal=seal))


def edit_seal(stored: Stored, chance: random.Random) -> None:
    place = chance.randrange(len(stored.seals))
    seal = stored.seals[place]
    name = chance.choice([item.name for item in fields(Seal)])
    value = getattr(seal, name)
    changes: dict[str, Any] = {"number": len(stored.seals) + chance.randint(1, 9), "ids": list(seal.ids)[1:]}
    change: dict[str, Any] = {name: changes.get(name, f"{value}0")}
    stored.seals[place] = replace(seal, **change)


def remove_seals(stored: Stored, chance: random.Random) -> None:
    """One or some in a row, with or without their records."""
    first = chance.randint(1, len(stored.seals))
    gone = set(range(first, first + chance.randint(1, 3)))
    stored.seals[:] = [s for s in stored.seals if s.number not in gone]
    if chance.random() < 0.7:
        stored.records[:] = [r for r in stored.records if r.seal not in gone]


def cut_tail(stored: Stored, chance: random.Random) -> None:
    """The last seals with all their records, and the anchor made to fit as well as can be without a key."""
    kept = chance.randrange(len(stored.seals))
    stored.seals[:] = [s for s in stored.seals if s.number <= kept]
    stored.records[:] = [r for r in stored.records if r.seal is not None and r.seal <= kept]
    mac = stored.seals[-1].mac if kept else ""
    last = stored.anchors["last"]
    match chance.randrange(4):
        case 0:
            stored.anchors["last"] = replace(last, seal=kept, seal_mac=mac)
        case 1:
            stored.anchors["last"] = Anchor(**Anchor("last", kept, mac).signed(OTHER_KEYS))
        case 2:
            del stored.anchors["last"]


def go_back(stored: Stored, chance: random.Random) -> None:
    """The last seals with all their records, and the anchor of that time, which the fleet has signed, put back."""
    kept, last = chance.randrange(len(stored.seals)), stored.seals[-1]
    stored.seals[:] = [s for s in stored.seals if s.number <= kept]
    stored.records[:] = [r for r in stored.records if r.seal is not None and r.seal <= kept]
    mac = stored.seals[-1].mac if kept else ""
    stored.anchors["last"] = Anchor(**Anchor("last", kept, mac).signed(stored.keys))
    stored.known = {last.number: last.mac}


def cut_head(stored: Stored, chance: random.Random) -> None:
    """The first seals with all their records, as if retention had removed them."""
    gone = chance.randint(1, len(stored.seals) - 1)
    mac = next(s.mac for s in stored.seals if s.number == gone)
    stored.seals[:] = [s for s in stored.seals if s.number > gone]
    stored.records[:] = [r for r in stored.records if r.seal is None or r.seal > gone]
    if chance.random() < 0.8:
        stored.anchors["first"] = replace(stored.anchors["first"], seal=gone, seal_mac=mac)


def edit_anchor(stored: Stored, chance: random.Random) -> None:
    name = chance.choice(("first", "last"))
    anchor = stored.anchors[name]
    match chance.randrange(5):
        case 0:
            del stored.anchors[name]
        case 1:
            stored.anchors[name] = replace(anchor, seal=anchor.seal + chance.choice((-1, 1)))
        case 2:
            stored.anchors[name] = replace(anchor, mac=f"{anchor.mac}0")
        case 3:
            stored.anchors[name] = replace(anchor, key_id="0" * 16)
        case 4:
            one, other = stored.anchors["first"], stored.anchors["last"]
            stored.anchors = {"first": replace(other, name="first"), "last": replace(one, name="last")}


def trim_too_early(stored: Stored, chance: random.Random) -> None:
    """With the fleet's key, as somebody who has taken over a worker would, if Postgres let them."""
    gone = chance.randint(1, len(stored.seals))
    trim(stored, gone)
    if chance.random() < 0.3:
        stored.seals[:] = [s for s in stored.seals if s.number > gone]


TAMPERINGS: list[Callable[[Stored, random.Random], None]] = [
    edit_record, edit_and_sign_with_another_key, remove_records, swap_contents, swap_places, move_record, add_record,
    edit_seal, remove_seals, cut_tail, go_back, cut_head, edit_anchor, trim_too_early,
]  # fmt: skip


def tampered(original: Stored, chance: random.Random) -> tuple[str, Stored]:
    """Returns a copy that somebody tampered with, and how."""
    while True:
        way = chance.choice(TAMPERINGS)
        changed = Stored(list(original.records), list(original.seals), dict(original.anchors), original.keys)
        way(changed, chance)
        if as_it_was(changed) != as_it_was(original):  # else nothing has happened: two equal things were swapped
            return way.__name__, changed


def as_it_was(stored: Stored) -> Any:
    """Returns the rows of a trail without their order, which means nothing in a table."""
    records = sorted(map(str, stored.records))
    return records, sorted(map(str, stored.seals)), stored.anchors


# The same in Postgres


def store(connection: sa.Connection, stored: Stored) -> None:
    """Puts the rows in the place of those that are there, in one transaction, as somebody with all rights could."""
    tables: dict[str, list[Any]] = {
        "audit_log": stored.records,
        "audit_seals": stored.seals,
        "audit_anchors": list(stored.anchors.values()),
    }
    statements, rows = [], {}
    for table, items in tables.items():
        insert = (
            f"INSERT INTO lanewise.{table} SELECT * FROM jsonb_populate_recordset(NULL::lanewise.{table}, :{table})"  # noqa: S608 - names of ours
        )
        statements += [f"DELETE FROM lanewise.{table}", insert.replace(f":{table}", f"CAST(:{table} AS jsonb)")]  # noqa: S608
        rows[table] = json.dumps([vars(item) for item in items])
    connection.execute(sa.text("; ".join(("BEGIN", *statements, "COMMIT")).replace("NULL::", r"NULL\:\:")), rows)


def tamper_in_postgres(
    database: Database, superuser: sa.Connection, keys: MacKeys, seed: int, times: int
) -> Counter[str]:
    """Tampers with a trail in Postgres, again and again, and has it verified from there.

    Returns:
        how often in which way; `refused` counts what Postgres does not take: no time, a key that is there already.

    Raises:
        AssertionError: a trail that was tampered with was found sound.
    """
    original, chance, tried = sealed(keys, [1, 3, 2, 1, 2], unsealed=1), random.Random(seed), Counter[str]()
    store(superuser, original)
    superuser.exec_driver_sql("UPDATE lanewise.audit_retention SET age = '1000 years'")  # none of it may be gone
    assert list(examine(database, Examination(keys))) == []
    stays = _read_back(database)
    while tried.total() - tried["refused"] < times:
        how, changed = tampered(original, chance)
        try:
            store(superuser, changed)
        except DBAPIError:
            superuser.exec_driver_sql("ROLLBACK")
            how = "refused"
        else:
            if not list(examine(database, Examination(keys, changed.known))):
                same = _read_back(database) == stays  # it says the same in other words
                assert same, f"{how}, of the seed {seed}: {changed}"
                continue
        tried[how] += 1
    return tried


def _read_back(database: Database) -> Any:
    with database.system_session() as session:
        return [
            sorted(map(str, session.execute(sa.select(table.__table__)).all()))
            for table in (AuditEntry, AuditSeal, AuditAnchor)
        ]


def _other(record: Record, name: str, chance: random.Random) -> Any:
    value = getattr(record, name)
    match name:
        case "detail":
            return chance.choice(({}, {**value, "count": -1}, {**value, "more": True}, {"tools": {}}))
        case "correlation_id":
            return None if value else "f" * 32
        case "id":
            return f"{chance.getrandbits(128):032x}"
    place = chance.randrange(len(value))
    return value[:place] + chance.choice([c for c in "0a~" if c != value[place]]) + value[place + 1 :]
