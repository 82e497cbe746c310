"""Verification of the audit trail: all that can be done without the key is found; what was not touched is sound."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import fields, replace
from typing import Any

import pytest

from shared import audit
from shared.audit_chain import BROKEN, Anchor, Seal
from shared.audit_check import Examination, Trail
from shared.signing import MacKeys
from tests.audit_trails import TAMPERINGS, Stored, a_record, sealed, signed, tampered, trim

SECRET, NEWER = "the-fleets-key-" + "0" * 32, "the-newer-key-" + "1" * 32
KEYS = MacKeys([SECRET], audit.PURPOSE)
SEED = 20_261_128
TIMES = 10_000
SIZES = [1, 3, 2, 1, 2]
AFTER_3 = "2026-11-28T12:00:03.500000+00:00"  # between seals 3 and 4


@pytest.fixture
def stored() -> Stored:
    return sealed(KEYS, SIZES, unsealed=1)


def kinds(stored: Stored, keys: MacKeys = KEYS) -> set[str]:
    return {flaw.kind for flaw in stored.flaws(keys)}


def test_a_trail_that_nobody_touched_has_no_flaw(stored: Stored) -> None:
    assert stored.flaws(KEYS) == []
    assert sealed(KEYS, []).flaws(KEYS) == []
    examination = Examination(KEYS)
    assert list(examination.look(Trail(stored.anchors, stored.seals, stored.records))) == []
    assert (examination.records, examination.seals, examination.unsealed) == (10, 5, 1)
    assert examination.last == f"5:{stored.seals[-1].mac}"


def test_each_of_ten_thousand_random_tamperings_is_found(stored: Stored) -> None:
    chance = random.Random(SEED)
    tried: Counter[str] = Counter()
    for _ in range(TIMES):
        how, changed = tampered(stored, chance)
        tried[how] += 1
        assert changed.flaws(KEYS, changed.known) != [], f"{how}, of the seed {SEED}: {changed}"
    assert tried.keys() == {way.__name__ for way in TAMPERINGS}
    assert min(tried.values()) > TIMES / 50


def test_each_kind_is_told_with_its_place(stored: Stored) -> None:
    first, second = stored.records[1], stored.records[2]

    def found(changed: Stored) -> list[tuple[str, str]]:
        return [(flaw.kind, flaw.where) for flaw in changed.flaws(KEYS)]

    def with_records(*records: object) -> Stored:
        return Stored([r for r in records if isinstance(r, audit.Record)], stored.seals, stored.anchors)

    others = [r for r in stored.records if r not in (first, second)]
    edited = with_records(*others, replace(first, actor="user:mallory"), second)
    assert found(edited) == [("record_edited", f"record {first.id}")]
    assert found(with_records(*others, first)) == [("record_removed", f"record {second.id}")]
    forged = a_record(MacKeys(["x" * 32], audit.PURPOSE), 99, None)
    assert found(with_records(*stored.records, forged)) == [("unknown_key", f"record {forged.id}")]
    moved = with_records(*others, first, replace(second, seal=1))
    assert found(moved) == [("record_added", f"record {second.id}"), ("record_removed", f"record {second.id}")]
    without = Stored(stored.records, [s for s in stored.seals if s.number not in {2, 3}], stored.anchors)
    assert ("seal_removed", "seals 2 to 3") in found(without)
    cut = Stored(stored.records[:4], stored.seals[:2], stored.anchors)
    assert found(cut) == [("tail_cut", "seal 5")]
    edited_seal = Stored(stored.records, [replace(stored.seals[0], digest="0"), *stored.seals[1:]], stored.anchors)
    assert ("seal_edited", "seal 1") in found(edited_seal)
    no_anchor = Stored(stored.records, stored.seals, {"first": stored.anchors["first"]})
    assert found(no_anchor) == [("anchor_edited", "anchor last")]


def test_going_back_to_an_earlier_state_is_found_by_whoever_remembers_a_later_seal(stored: Stored) -> None:
    """All of it, with the anchor of that time, is as it was written: only something outside can tell."""
    earlier, last = sealed(KEYS, SIZES[:3]), stored.seals[-1]
    assert earlier.flaws(KEYS) == []
    assert [flaw.kind for flaw in earlier.flaws(KEYS, {last.number: last.mac})] == ["tail_cut"]
    assert stored.flaws(KEYS, {last.number: last.mac, 2: stored.seals[1].mac}) == []
    gone_on = sealed(KEYS, [*SIZES[:4], 5])  # from the earlier state, to the same number
    assert [flaw.kind for flaw in gone_on.flaws(KEYS, {last.number: last.mac})] == ["seal_edited"]


def test_a_seal_of_another_history_does_not_fit_in(stored: Stored) -> None:
    """As when somebody went back to an earlier state, and puts in what was sealed before that: each is well signed."""
    other = sealed(KEYS, [*SIZES[:3], 2, SIZES[4]])
    seals = [*stored.seals[:3], other.seals[3], stored.seals[4]]
    records = [r for r in stored.records if r.seal != 4] + [r for r in other.records if r.seal == 4]
    flaws = Stored(records, seals, stored.anchors).flaws(KEYS)
    assert [(flaw.kind, flaw.where) for flaw in flaws] == [("seal_edited", "seal 5")]


def test_what_a_retired_key_signed_is_verified_as_long_as_the_key_is_kept(stored: Stored) -> None:
    assert stored.flaws(MacKeys([NEWER, SECRET], audit.PURPOSE)) == []
    assert kinds(stored, MacKeys([NEWER], audit.PURPOSE)) == {"unknown_key"}
    assert kinds(stored, MacKeys([SECRET], "another purpose")) == {"unknown_key"}


def test_the_holder_of_a_retired_key_cannot_change_what_newer_seals_stand_on(stored: Stored) -> None:
    both = MacKeys([NEWER, SECRET], audit.PURPOSE)
    stored.records[0] = signed(replace(stored.records[0], outcome="never happened"), KEYS)
    assert kinds(stored, both) == {"record_edited"}


def test_what_a_worker_found_is_told_for_ever() -> None:
    record = signed(replace(a_record(KEYS, 0, None), action=BROKEN), KEYS)
    anchors = {name: Anchor(**Anchor(name, 0, "").signed(KEYS)) for name in ("first", "last")}
    assert kinds(Stored([record], [], anchors)) == {"tampering_recorded"}


# Retention: what it removes, and what somebody removes in its name


def told(stored: Stored, known: dict[int, str] | None = None) -> list[tuple[str, str]]:
    """Returns kinds and places of the flaws where seals 1 to 3 are past retention."""
    return [(flaw.kind, flaw.where) for flaw in stored.flaws(KEYS, known, AFTER_3)]


def test_what_retention_has_removed_is_no_flaw_and_is_told(stored: Stored) -> None:
    macs = {seal.number: seal.mac for seal in stored.seals}
    trim(stored, 3)
    assert told(stored) == []
    examination = Examination(KEYS, {**macs, 1: "what can no longer be told"})
    assert list(examination.look(stored.trail(AFTER_3))) == []
    assert (examination.after, examination.since) == (3, "2026-11-28T12:00:03.000000+00:00")
    assert (examination.records, examination.seals, examination.removed) == (4, 2, [1, 2])
    assert told(stored, {3: "another"}) == [("seal_edited", "seal 3")]  # of this one it can be told
    assert told(stored, {0: "there was none"}) == [("head_cut", "seal 0")]


def test_a_trail_that_retention_has_not_come_to_begins_with_its_first_seal(stored: Stored) -> None:
    examination = Examination(KEYS, {0: "there was none"})
    assert [flaw.where for flaw in examination.look(stored.trail(AFTER_3))] == ["seal 0"]
    assert (examination.after, examination.since) == (0, stored.seals[0].sealed_at)


def test_what_was_removed_too_early_is_told_whatever_is_known(stored: Stored) -> None:
    right = stored.seals[2].mac
    trim(stored, 4)
    assert told(stored) == [("head_cut", "seal 4")]
    for mac in (right, "nonsense"):
        assert told(stored, {3: mac}) == [("head_cut", "seal 4"), ("head_cut", "seal 3")]


def test_without_the_seal_that_stays_nobody_can_say_that_it_was_retention(stored: Stored) -> None:
    trim(stored, 3)
    del stored.seals[0]
    assert told(stored, {2: "its MAC"}) == [("seal_removed", "seal 3"), ("head_cut", "seal 2")]


@pytest.mark.parametrize("name", [item.name for item in fields(Seal)])
def test_the_seal_that_stays_cannot_be_edited(stored: Stored, name: str) -> None:
    trim(stored, 3)
    change: dict[str, Any] = {name: {"number": 2, "ids": []}.get(name, "0")}
    stored.seals[0] = replace(stored.seals[0], **change)
    found = {kind for kind, _ in told(stored, {1: "its MAC"})}
    assert {"unknown_key" if name == "key_id" else "seal_edited", "head_cut"} <= found


def test_the_seal_that_stays_is_not_made_older_by_whoever_has_the_key(stored: Stored) -> None:
    trim(stored, 4)
    older = replace(stored.seals[0], sealed_at="2025-11-28T12:00:00.000000+00:00")
    stored.seals[0] = Seal(**older.signed(KEYS))
    assert told(stored) == [("seal_edited", "seal 4")]
    stored.anchors["first"] = Anchor(**Anchor("first", 4, stored.seals[0].mac).signed(KEYS))
    assert told(stored) == [("seal_edited", "seal 5")]


def test_a_record_of_what_retention_has_removed_was_added(stored: Stored) -> None:
    trim(stored, 3)
    stored.records.append(a_record(KEYS, 99, 3))
    assert told(stored) == [("record_added", f"record {stored.records[-1].id}")]
