"""The order in which events of many attempts are written: each attempt's own, and nobody waits for a loud one."""

from __future__ import annotations

from shared.event_types import EventType
from shared.events import Attempt, Event
from worker.turns import TURN_BYTES, TurnQueue

BATCH_BYTES = 16 * TURN_BYTES


def event(run_id: str, number: int, size: int = 0) -> Event:
    return Event("alice", run_id, 1, EventType.AGENT_THINKING, "agent", {"n": number, "text": "x" * size})


def filled(**counts: tuple[int, int]) -> TurnQueue:
    """Returns a queue with so many events of such a size for each run, one run after the other."""
    queue = TurnQueue()
    for run_id, (count, size) in counts.items():
        for number in range(count):
            queue.put(event(run_id, number, size))
    return queue


def drained(queue: TurnQueue, most: int = 500) -> list[list[Event]]:
    batches = []
    while batch := queue.pop(most, BATCH_BYTES):
        batches.append(batch)
    return batches


def test_each_attempt_keeps_its_order_and_nothing_is_lost() -> None:
    batches = drained(filled(loud=(300, 60_000), quiet=(40, 10), third=(1000, 500)), most=100)
    for run_id, count in {"loud": 300, "quiet": 40, "third": 1000}.items():
        assert [e.data["n"] for batch in batches for e in batch if e.run_id == run_id] == list(range(count))


def test_what_a_quiet_run_says_is_in_the_next_batch_however_much_the_others_say() -> None:
    queue = filled(**{f"loud{n}": (200, 60_000) for n in range(8)}, quiet=(1, 10))
    assert [e.run_id for e in queue.pop(500, BATCH_BYTES)].count("quiet") == 1
    queue.pop(500, BATCH_BYTES)
    queue.put(event("quiet", 1))
    assert [e.run_id for e in queue.pop(500, BATCH_BYTES)].count("quiet") == 1


def test_a_batch_is_bounded_by_count_and_bytes() -> None:
    batches = drained(filled(a=(100, 60_000), b=(100, 30_000), c=(900, 10)), most=300)
    assert all(len(batch) <= 300 and sum(e.size for e in batch) <= BATCH_BYTES for batch in batches)
    assert len(batches) < 20  # and filled


def test_an_event_above_all_bounds_goes_alone() -> None:
    queue = filled(a=(2, 2 * BATCH_BYTES), b=(1, 10))
    assert [[(e.run_id, e.data["n"]) for e in batch] for batch in drained(queue)] == [
        [("a", 0)], [("b", 0)], [("a", 1)],
    ]  # fmt: skip


def test_an_attempt_that_is_removed_is_gone() -> None:
    queue = filled(a=(3, 10), b=(2, 10))
    assert [e.data["n"] for e in queue.remove(Attempt("a", 1))] == [0, 1, 2]
    assert queue.remove(Attempt("a", 1)) == []
    assert len(queue) == 2
    assert {e.run_id for e in queue.pop(10, BATCH_BYTES)} == {"b"}
    assert len(queue) == 0
