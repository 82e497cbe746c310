from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest

from tests.chaos.watch import Log, Told, Watch, judge

OWN, OTHER = "lwcanary" + "a" * 32, "lwcanary" + "b" * 32
LOG = Log({seq: f"content {seq}" for seq in range(1, 8)}, head=7)


def watch(*seqs: int, start: int = 0) -> Watch:
    """A follower over which these events came, one after the other."""
    found = Watch("alice", "0", start=start, canaries={OWN}, cuts=Counter(abort=1))
    for seq in seqs:
        found.accept(seq, f"content {seq}")
    return found


def whole() -> Watch:
    return watch(1, 2, 3, 4, 5, 6, 7)


def told(after: int, head: int, reason: str = "trimmed", *, snapshot: bool = True) -> Watch:
    found = watch(*range(1, after + 1))
    found.told.append(Told(after, head, reason, snapshot))
    for seq in range(head + 1, 8):
        found.accept(seq, f"content {seq}")
    return found


def another_content() -> Watch:
    found = whole()
    found.digests[3] = "content 5"
    return found


def of_someone_else() -> Watch:
    found = whole()
    found.canaries.add(OTHER)
    return found


def not_sorted() -> Watch:
    found = whole()
    found.seqs[2:4], found.digests[2:4] = [4, 3], ["content 4", "content 3"]
    return found


@pytest.mark.parametrize(
    "record", [whole(), watch(4, 5, 6, 7, start=3), Watch.from_json(whole().to_json())], ids=["whole", "part", "file"]
)
def test_a_record_without_a_flaw_passes(record: Watch) -> None:
    assert list(judge(record, LOG, OWN)) == []
    assert record.last == 7


@pytest.mark.parametrize(
    ("make", "invariants"),
    [
        (lambda: watch(1, 2, 3, 4, 5, 6), {"lost"}),
        (lambda: Watch("alice", "0", canaries={OWN}), {"lost"}),
        (lambda: watch(1, 2, 3, 3, 4, 5, 6, 7), {"doubled"}),
        (lambda: watch(1, 2, 4, 3, 4, 5, 6, 7), {"order"}),
        (not_sorted, {"order"}),
        (another_content, {"changed"}),
        (of_someone_else, {"foreign"}),
        (lambda: told(2, 5), {"told"}),
    ],
)
def test_each_flaw_is_found_by_its_invariant(make: Callable[[], Watch], invariants: set[str]) -> None:
    assert {invariant for invariant, _ in judge(make(), LOG, OWN)} == invariants


@pytest.mark.parametrize(
    ("make", "well"),
    [
        (lambda: told(0, 5), True),
        (lambda: told(3, 5), True),
        (lambda: told(4, 5), False),  # nothing after its cursor was trimmed
        (lambda: told(0, 5, reason="ahead"), False),
        (lambda: told(0, 5, snapshot=False), False),
    ],
)
def test_a_gap_that_was_told_is_none_if_the_log_is_trimmed(make: Callable[[], Watch], *, well: bool) -> None:
    log = Log({seq: f"content {seq}" for seq in range(5, 8)}, head=7, trimmed=4)
    record = make()
    assert [invariant for invariant, _ in judge(record, log, OWN)] == ([] if well else ["told"])
    assert Watch.from_json(record.to_json()) == record
