"""Waves of runs that are ended in the middle of their calls, beside others that check every answer."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import sqlalchemy as sa

from lanewise.process import wait_until
from tests.chaos.bystanders import Bystanders
from tests.chaos.callers import CALLS, Mark
from tests.fleet.fleet import Fleet, new_user

WAVE = 250  # runs, then the pools are looked at
BEGUN_S, ENDED_S = 60.0, 60.0
LATER_S = 0.1  # after the first call, at most
LIMIT_S = (0.1, 0.4)
PAUSE_S = 0.03  # of neighbours after each call: else they leave no processor time to anybody
PROBED = 20  # calls of each
ENDS = ("cancel", "deadline", "kill")
# Whoever opens a database session of its own takes long to do so: then hardly anything else would be under way.
KINDS = (["query"], [kind for kind in CALLS if kind != "query"])
# Whatever is stored for a run has to say so.
STRAY = {
    "events": "run_events WHERE type = 'agent_thinking' AND data ->> 'text' NOT LIKE user_id || ' ' || run_id || ' %'",
    "steps": "run_steps WHERE result #>> '{}' NOT LIKE user_id || ' ' || run_id || ' %'",
    "states": "agent_state WHERE value #>> '{}' NOT LIKE user_id || ' ' || run_id || ' %'",
}
OF_CALLERS = "user_id LIKE 'caller%'"
LIVE = f"lanewise.runs WHERE agent = 'call' AND {OF_CALLERS} AND status IN ('queued', 'running')"


@dataclass(frozen=True)
class Plan:
    """One run of the part.

    Args:
        runs: that are ended, at least.
        at_once: how many of these.
        neighbours: users whose runs go on meanwhile.
        env: settings besides those of every run.
    """

    seed: int
    runs: int = 3_000
    at_once: int = 8
    neighbours: int = 3
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """What came of it.

    Args:
        ended: runs, by how they were ended.
        middle: those that ended with a call under way, by how and by the call.
        checked: answers that were looked at, by whose they were.
        foreign: answers that were somebody else's, or not what they must be.
        broken: what went wrong in another way.
        hung_up: requests whose client went away before any answer.
    """

    plan: Plan
    ended: Counter[str] = field(default_factory=Counter)
    middle: Counter[tuple[str, str]] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)
    hung_up: int = 0
    took_s: float = 0.0

    def in_the_middle(self, how: str) -> int:
        """Returns how many runs were ended so with a call under way."""
        return sum(self.middle[how, kind] for kind in CALLS)

    def is_enough(self) -> bool:
        """Tells whether many were ended in the middle, in each way and of each kind of call, and everybody looked."""
        often = all(self.in_the_middle(how) >= self.plan.runs // 10 for how in ENDS)
        kinds = all(any(self.middle[how, kind] for how in ENDS) for kind in CALLS)
        looked = min(self.checked[who] for who in ("ended runs'", "neighbours'", "the api's", "events"))
        return often and kinds and self.middle.total() >= self.plan.runs and looked >= self.plan.runs // 10


class Caller(NamedTuple):
    """A run of `call`."""

    user: str
    run_id: str
    mark: Mark


class Waves:
    """Makes waves until enough runs were ended.

    Args:
        fleet: with the agent `call`.
        folder: for marks.
    """

    def __init__(self, fleet: Fleet, folder: Path, plan: Plan) -> None:
        self.result = Result(plan)
        self._fleet = fleet
        self._folder = folder
        self._plan = plan
        self._chance = random.Random(plan.seed)
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._users = [new_user(f"caller{number}") for number in range(plan.at_once)]
        self._others = [new_user(f"neighbour{number}") for number in range(plan.neighbours)]
        self._bystanders = Bystanders(fleet, self._others, self._note)
        self._never = folder / "never"

    def run(self) -> Result:
        """Makes all waves; stops once a foreign answer was seen, or something else is wrong."""
        began, result = time.monotonic(), self.result
        with self._bystanders.watching():
            while result.middle.total() < self._plan.runs and not result.foreign and not result.broken:
                self._wave()
        self._look_at_rows()
        result.checked += self._bystanders.checked
        result.hung_up = self._bystanders.hung_up
        result.broken += self._bystanders.lost
        result.took_s = time.monotonic() - began
        return result

    def _wave(self) -> None:
        gate = self._folder / f"gate-{next(self._numbers)}"
        neighbours = [self._begin(user, list(CALLS), until=gate, pause_s=PAUSE_S) for user in self._others]
        count = min(WAVE, self._plan.runs)
        chances = [random.Random(self._chance.getrandbits(64)) for _ in range(count)]
        with ThreadPoolExecutor(self._plan.at_once) as pool:
            ended = list(pool.map(self._end_one, itertools.cycle(self._users), chances))
        if not wait_until(lambda: not self._count(LIVE), ENDED_S):
            self.result.broken.append("runs do not end")
        for how, mark in ended:
            self._tell(how, mark)
        gate.touch()
        for neighbour in neighbours:
            self._judge(neighbour)
        self._probe()

    def _end_one(self, user: str, chance: random.Random) -> tuple[str, Mark]:
        """Begins a run and ends it at a random moment."""
        how, kinds = chance.choice(ENDS), chance.choices(KINDS, (1, 3))[0]
        victim = self._begin(user, kinds, limit_s=chance.uniform(*LIMIT_S) if how == "deadline" else None)
        if how != "deadline":
            if not wait_until(lambda: victim.mark.load().begun > 0, BEGUN_S):
                self.result.broken.append(f"a run does not begin: {self._fleet.run(user, victim.run_id)}")
            time.sleep(chance.uniform(0, LATER_S))
        if how == "cancel":
            self._fleet.client(user).cancel(victim.run_id)
        elif how == "kill":
            _kill(victim.mark.load().pid)
        return how, victim.mark

    def _begin(
        self, user: str, kinds: list[str], *, until: Path | None = None, limit_s: float | None = None, **more: float
    ) -> Caller:
        path = self._folder / f"mark-{next(self._numbers)}"
        mark = Mark.make(path)
        task = {"mark": str(path), "until": str(until or self._never), "kinds": kinds, **more}
        return Caller(user, self._fleet.submit(user, "call", task, time_limit_s=limit_s)["id"], mark)

    def _tell(self, how: str, mark: Mark) -> None:
        """Notes how a run was ended, and whether in the middle of a call."""
        mark.load()
        self.result.ended[how] += mark.begun > 0
        if mark.open:
            self.result.middle[how, mark.kind] += 1
        self.result.checked["ended runs'"] += mark.answered
        self._note(mark.foreign)
        mark.close()

    def _judge(self, caller: Caller) -> None:
        """Waits for the end of a run that nobody ends."""
        run = self._fleet.wait(caller.user, caller.run_id, status=None, timeout_s=ENDED_S)
        mark = caller.mark.load()
        with self._lock:
            self.result.checked["neighbours'"] += mark.answered
        self._note(mark.foreign)
        if run["status"] != "completed" and not mark.foreign:
            self.result.broken.append(f"a neighbour ended as {run['status']}: {run['error']}")
        mark.close()

    def _probe(self) -> None:
        """Uses many pooled connections at once, of workers and apis, and checks whose answers come."""
        with ThreadPoolExecutor(self._plan.at_once) as pool:
            probes = list(pool.map(lambda user: self._begin(user, KINDS[1], calls=PROBED), self._users))
            list(pool.map(self._judge, probes))
            list(pool.map(self._bystanders.check, self._others * 2))

    def _look_at_rows(self) -> None:
        for name, rows in STRAY.items():
            if stray := self._count(f"lanewise.{rows} AND {OF_CALLERS}"):
                self._note(f"{stray} {name} are stored for another run")

    def _count(self, rows: str) -> int:
        with self._fleet.superuser().connect() as connection:
            return int(connection.scalar(sa.text(f"SELECT count(*) FROM {rows}")) or 0)  # noqa: S608 - ours

    def _note(self, foreign: str) -> None:
        if foreign:
            with self._lock:
                self.result.foreign.append(foreign)


def _kill(pid: int) -> None:
    """Ends a sandbox; a process that has its number by now is left alone."""
    with suppress(ProcessLookupError, FileNotFoundError):
        handle = os.pidfd_open(pid)
        try:
            if b"worker.zygote" in Path(f"/proc/{pid}/cmdline").read_bytes():
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)
