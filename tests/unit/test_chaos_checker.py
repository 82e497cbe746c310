from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from tests.chaos.checker import CHECKS, check
from tests.chaos.history import Accepted, Answer, History, Sample, Seen, Sighting, Step, StoredRun, User

ALICE, BOB = "lwcanary" + "a" * 32, "lwcanary" + "b" * 32


def events(*runs: str) -> list[Seen]:
    types = ("run_queued", "run_started", "run_completed")
    return [
        Seen(3 * number + run_seq, run_id, run_seq, kind)
        for number, run_id in enumerate(runs)
        for run_seq, kind in enumerate(types, 1)
    ]


@pytest.fixture
def history() -> History:
    """Two users, three runs, and nothing wrong."""
    found = History(max_attempts=3, minimum=3)
    found.users = {"alice": User(1, ALICE), "bob": User(2, BOB)}
    found.sightings = {Sighting("alice", ALICE, "stream"), Sighting("bob", BOB, "table lanewise.runs")}
    for user, runs in {"alice": ["a1", "a2"], "bob": ["b1"]}.items():
        found.final.events[user] = events(*runs)
        found.streams[user] = events(*runs)
        for run_id in runs:
            found.accepted[run_id] = Accepted(user, "work", f"key {run_id}", steps=1)
            found.ends.add((run_id, "completed"))
            found.final.runs[run_id] = StoredRun(user, "completed", 1, 0, 3)
            found.final.steps.append(Step(user, run_id, "book 0"))
            found.final.effects.append(Step(user, run_id, "book 0"))
    found.again = [("key a1", "a1")]
    found.samples = [Sample(1.0, {"alice": 1, "bob": 2})]
    return found


def test_a_history_without_a_flaw_passes(history: History) -> None:
    assert check(history) == []


def test_a_gap_that_the_client_was_told_of_is_none(history: History) -> None:
    history.streams["alice"] = [history.streams["alice"][0], Seen(4), *history.streams["alice"][4:]]
    assert check(history) == []


def test_losses_over_the_limit_are_a_reason_to_fail(history: History) -> None:
    history.minimum = 2
    fail(history, "a1", {"type": "sandbox_died"}, lost=3)
    assert check(history) == []


def test_what_was_cancelled_or_fails_by_itself_needs_no_success(history: History) -> None:
    history.minimum = 1
    history.accepted["b1"].cancelled = True
    end(history, "b1", "cancelled")
    history.accepted["a1"].doomed = True
    fail(history, "a1", {"type": "Doomed"})
    assert check(history) == []


def end(history: History, run_id: str, status: str) -> None:
    """Has a run ended otherwise, consistently."""
    run = history.final.runs[run_id]
    history.final.runs[run_id] = replace(run, status=status)
    history.ends = {(i, status if i == run_id else s) for i, s in history.ends}
    for log in (history.final.events[run.user], history.streams[run.user]):
        log[:] = [
            replace(event, type=f"run_{status}") if event.run_id == run_id and event.run_seq == 3 else event
            for event in log
        ]


def fail(history: History, run_id: str, error: dict[str, str], lost: int = 0) -> None:
    end(history, run_id, "failed")
    history.final.runs[run_id] = replace(history.final.runs[run_id], error=error, lost_attempts=lost)


def rewrite(history: History, user: str, place: int, **changes: object) -> None:
    """Changes a stored event, and the same in the stream."""
    for log in (history.final.events[user], history.streams[user]):
        log[place] = replace(log[place], **changes)  # type: ignore[arg-type]


def no_end(history: History) -> None:
    history.final.runs["a1"] = replace(history.final.runs["a1"], status="running")
    history.ends.discard(("a1", "completed"))


def no_row(history: History) -> None:
    del history.final.runs["a1"]


def no_last_event(history: History) -> None:
    rewrite(history, "alice", 5, type="agent_progress")


def two_last_events(history: History) -> None:
    rewrite(history, "alice", 1, type="run_completed")


def event_after_the_last(history: History) -> None:
    rewrite(history, "alice", 1, type="run_completed")
    rewrite(history, "alice", 2, type="agent_progress")


def another_end_was_seen(history: History) -> None:
    history.ends.add(("a1", "failed"))


def made_twice(history: History) -> None:
    history.final.runs["a3"] = StoredRun("alice", "completed", 1, 0, 3)
    more = [replace(event, seq=event.seq + 6) for event in events("a3")]
    history.final.events["alice"] += more
    history.streams["alice"] += more


def answered_with_another_run(history: History) -> None:
    history.again = [("key a1", "a2")]


def seq_skips(history: History) -> None:
    for log in (history.final.events["alice"], history.streams["alice"]):
        log[3:] = [replace(event, seq=event.seq + 1) for event in log[3:]]
    history.streams["alice"].insert(3, Seen(4))


def run_seq_skips(history: History) -> None:
    rewrite(history, "alice", 2, run_seq=4)
    history.final.runs["a1"] = replace(history.final.runs["a1"], last_run_seq=4)


def counter_is_ahead(history: History) -> None:
    history.final.runs["a1"] = replace(history.final.runs["a1"], last_run_seq=4)


def streamed_twice(history: History) -> None:
    history.streams["alice"].insert(2, history.streams["alice"][1])


def not_streamed(history: History) -> None:
    del history.streams["alice"][2]


def stream_ended_early(history: History) -> None:
    del history.streams["alice"][-1]


def streamed_otherwise(history: History) -> None:
    history.streams["alice"][1] = replace(history.streams["alice"][1], run_id="b1")


def effect_twice(history: History) -> None:
    history.final.effects.append(history.final.effects[0])


def effect_missing(history: History) -> None:
    history.final.effects.pop()


def effect_without_record(history: History) -> None:
    history.final.effects.append(Step("alice", "a1", "book 1"))


def step_left_out(history: History) -> None:
    history.accepted["a1"].steps = 2


def over_the_limit(history: History) -> None:
    history.samples.append(Sample(2.0, {"alice": 2}))


def slot_leaked(history: History) -> None:
    history.final.slots = {"alice": ["a1:1"]}


def left_parked(history: History) -> None:
    history.final.runs["a1"] = replace(history.final.runs["a1"], parked=True)


def canary_crossed(history: History) -> None:
    history.sightings.add(Sighting("bob", ALICE, "stream"))


def nothing_looked_at(history: History) -> None:
    history.sightings.clear()


def too_few_completed(history: History) -> None:
    history.minimum = 4


def small_share_completed(history: History) -> None:
    history.minimum = 1
    for run_id in ("a1", "a2"):
        fail(history, run_id, {"type": "worker_lost"}, lost=3)


def failed_without_reason(history: History) -> None:
    history.minimum = 2
    fail(history, "a1", {"type": "internal"})


def cancelled_by_nobody(history: History) -> None:
    history.minimum = 2
    end(history, "a1", "cancelled")


def timed_out(history: History) -> None:
    history.minimum = 2
    end(history, "a1", "timed_out")


def doomed_completed(history: History) -> None:
    history.minimum = 2
    history.accepted["a1"].doomed = True


def server_error(history: History) -> None:
    history.answers.append(Answer("alice", "GET /v1/me", 500, "{}"))


FLAWS: dict[str, list[Callable[[History], None]]] = {
    "ends": [no_end, no_row, no_last_event, two_last_events, event_after_the_last, another_end_was_seen],
    "keys": [made_twice, answered_with_another_run],
    "numbers": [seq_skips, run_seq_skips, counter_is_ahead],
    "streams": [streamed_twice, not_streamed, stream_ended_early, streamed_otherwise],
    "effects": [effect_twice, effect_missing, effect_without_record, step_left_out],
    "limits": [over_the_limit],
    "slots": [slot_leaked, left_parked],
    "canaries": [canary_crossed, nothing_looked_at],
    "successes": [too_few_completed, small_share_completed],
    "reasons": [failed_without_reason, cancelled_by_nobody, timed_out, doomed_completed],
    "answers": [server_error],
}
# A run without its row is no success either.
BESIDES: dict[Callable[[History], None], set[str]] = {no_end: {"successes"}, no_row: {"successes"}}


@pytest.mark.parametrize(
    ("invariant", "flaw"),
    [pytest.param(name, flaw, id=flaw.__name__) for name, flaws in FLAWS.items() for flaw in flaws],
)
def test_a_flaw_is_told_by_the_invariant_that_it_breaks(
    history: History, invariant: str, flaw: Callable[[History], None]
) -> None:
    flaw(history)
    assert {violation.invariant for violation in check(history)} == {invariant} | BESIDES.get(flaw, set())


def test_every_check_has_a_flaw() -> None:
    assert set(FLAWS) == set(CHECKS)
