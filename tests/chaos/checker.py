"""Judges a history. A pure function: each invariant is a check of its own, and says by its name what is broken."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain

from shared.states import ENDS
from tests.chaos.history import Accepted, Answer, History, Seen, StoredRun

LAST = {f"run_{state}" for state in ENDS}
SHARE = 0.6  # of the runs that nobody cancelled and that do not fail by themselves, so many must complete


@dataclass(frozen=True)
class Violation:
    """Something that must never be."""

    invariant: str
    detail: str


def check(history: History) -> list[Violation]:
    """Returns everything that is wrong with a history; empty: all invariants held."""
    return [Violation(name, detail) for name, judge in CHECKS.items() for detail in judge(history)]


def check_ends(history: History) -> Iterator[str]:
    """Every accepted run has exactly one end: one state, one last event, and nobody ever saw another."""
    for run_id in history.accepted:
        run = history.final.runs.get(run_id)
        if run is None:
            yield f"{run_id}: accepted and not there any more"
        elif run.status not in ENDS:
            yield f"{run_id}: accepted and still {run.status} in attempt {run.attempt}"
    of_run: dict[str, list[Seen]] = defaultdict(list)
    for event in chain.from_iterable(history.final.events.values()):
        of_run[event.run_id].append(event)
    for run_id, run in history.final.runs.items():
        last = [event.type for event in of_run[run_id] if event.type in LAST]
        if run.status in ENDS and last != [f"run_{run.status}"]:
            yield f"{run_id}: is {run.status} and has the last events {last}"
        elif last and of_run[run_id][-1].type not in LAST:
            yield f"{run_id}: {of_run[run_id][-1].type} came after its last event"
    for run_id, status in sorted(history.ends):
        stored = history.final.runs.get(run_id)
        if stored is not None and stored.status != status:
            yield f"{run_id}: was seen {status} and is {stored.status}"


def check_keys(history: History) -> Iterator[str]:
    """One key, one run: nothing was made twice, and the same key was answered with the same run."""
    runs = {accepted.key: run_id for run_id, accepted in history.accepted.items()}
    for key, run_id in history.again:
        if runs.get(key) != run_id:
            yield f"key {key} made {runs.get(key)} and then {run_id}"
    for run_id in sorted(history.final.runs.keys() - history.accepted.keys()):
        yield f"{run_id}: stored, and its client was told of another run or of none"
    yield from (f"key {key} made {n} runs" for key, n in _doubles(a.key for a in history.accepted.values()))


def check_numbers(history: History) -> Iterator[str]:
    """`seq` is gapless for each user, `run_seq` for each run, as stored."""
    for user, events in history.final.events.items():
        wrong = next((n for n, event in enumerate(events, 1) if event.seq != n), None)
        if wrong is not None:
            yield f"{user}: the event at place {wrong} has seq {events[wrong - 1].seq}"
        runs: Counter[str] = Counter()
        for event in events:
            runs[event.run_id] += 1
            if event.run_seq != runs[event.run_id]:
                yield f"{event.run_id}: the event at place {runs[event.run_id]} has run_seq {event.run_seq}"
                runs[event.run_id] = event.run_seq
        for run_id, number in runs.items():
            run = history.final.runs.get(run_id)
            if run is not None and run.last_run_seq != number:
                yield f"{run_id}: has events up to {number} and says {run.last_run_seq}"


def check_streams(history: History) -> Iterator[str]:
    """What each client was streamed is the log: no doubles, no gap that it was not told of, and nothing missing."""
    for user, seen in history.streams.items():
        stored = {event.seq: event for event in history.final.events.get(user, [])}
        last = 0
        for event in seen:
            if event.type != "gap" and event.seq != last + 1:
                yield f"{user}: {event.seq} came after {last}"
            elif event.type != "gap" and stored.get(event.seq) != event:
                yield f"{user}: {event} was streamed and {stored.get(event.seq)} is stored"
            last = event.seq
        if last != max(stored, default=0):
            yield f"{user}: the stream ended at {last} and the log at {max(stored, default=0)}"


def check_effects(history: History) -> Iterator[str]:
    """A recorded step's effect happened exactly once, and none happened without its record."""
    effects, steps = Counter(history.final.effects), set(history.final.steps)
    yield from (f"{step.run_id}: {step.name} has {effects[step]} effects" for step in steps if effects[step] != 1)
    yield from (f"{step.run_id}: {step.name} has an effect and no record" for step in effects.keys() - steps)
    done = Counter(step.run_id for step in steps)
    for run_id, accepted in history.accepted.items():
        run = history.final.runs.get(run_id)
        if run is not None and run.status == "completed" and done[run_id] != accepted.steps:
            yield f"{run_id}: completed with {done[run_id]} of {accepted.steps} steps"


def check_limits(history: History) -> Iterator[str]:
    """No sample shows more running runs of a user than the user's limit."""
    for sample in history.samples:
        for user, running in sample.running.items():
            if user in history.users and running > history.users[user].limit:
                yield f"{user}: {running} running at {sample.at:.2f}, the limit is {history.users[user].limit}"


def check_slots(history: History) -> Iterator[str]:
    """At rest no slot is held and no run is parked."""
    live = {run_id for run_id, run in history.final.runs.items() if run.status not in ENDS}
    for user, members in history.final.slots.items():
        for member in members:
            if member.split(":")[0] not in live:
                yield f"{user}: the slot {member} is held for no live run"
    for run_id, run in history.final.runs.items():
        if run.parked:
            yield f"{run_id}: is parked beside {len(history.final.slots.get(run.user, []))} slots held"


def check_canaries(history: History) -> Iterator[str]:
    """Nobody has what is somebody else's, in answers, frames or rows."""
    owners = {user.canary: name for name, user in history.users.items()}
    for sighting in sorted(history.sightings, key=str):
        if owners.get(sighting.canary) != sighting.user:
            yield f"{sighting.user}: has the canary of {owners.get(sighting.canary)} in {sighting.where}"
    if history.accepted and not history.sightings:
        yield "nobody saw their own canary: nothing was looked at"


def check_successes(history: History) -> Iterator[str]:
    """Enough runs completed, so that the rest proves something."""
    wanted = [run_id for run_id, run in history.accepted.items() if not (run.cancelled or run.doomed)]
    completed = sum(_status(history, run_id) == "completed" for run_id in wanted)
    least = max(history.minimum, SHARE * len(wanted))
    if completed < least:
        yield f"{completed} of {len(wanted)} runs completed, at least {least:.0f} must"


def check_reasons(history: History) -> Iterator[str]:
    """No run ended as it did for a reason that a fault must not be."""
    for run_id, accepted in history.accepted.items():
        run = history.final.runs.get(run_id)
        if run is None or run.status not in ENDS:
            continue
        if why := _unreasonable(history, accepted, run):
            yield f"{run_id} ({accepted.agent}): {why}"


def _unreasonable(history: History, accepted: Accepted, run: StoredRun) -> str:
    if run.status == "cancelled":
        return "" if accepted.cancelled else "cancelled, and nobody asked"
    if run.status == "failed":
        own = accepted.doomed and (run.error or {}).get("type") == "Doomed"
        return "" if own or run.lost_attempts >= history.max_attempts else f"failed with {run.error}"
    if run.status == "completed":
        return "completed, and its agent cannot" if accepted.doomed else ""
    return f"{run.status} after {run.attempt} attempts"


def check_answers(history: History) -> Iterator[str]:
    """No client was answered with a mistake of ours, or with a trace of one."""
    yield from (_described(answer) for answer in history.answers)


def _described(answer: Answer) -> str:
    return f"{answer.user}: {answer.call} was answered {answer.status}: {answer.body}"


def _status(history: History, run_id: str) -> str | None:
    run = history.final.runs.get(run_id)
    return run.status if run else None


def _doubles(items: Iterator[str]) -> list[tuple[str, int]]:
    return [(item, n) for item, n in Counter(items).items() if n > 1]


CHECKS: dict[str, Callable[[History], Iterator[str]]] = {
    "ends": check_ends,
    "keys": check_keys,
    "numbers": check_numbers,
    "streams": check_streams,
    "effects": check_effects,
    "limits": check_limits,
    "slots": check_slots,
    "canaries": check_canaries,
    "successes": check_successes,
    "reasons": check_reasons,
    "answers": check_answers,
}
