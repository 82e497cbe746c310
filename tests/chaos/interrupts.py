"""The part `interrupts`: runs that are ended in the middle of their calls, beside others that check every answer."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from lanewise.process import wait_until
from tests import plain
from tests.chaos.callers import KINDS, Mark
from tests.chaos.part import Options, say
from tests.chaos.sabotage import sabotaged
from tests.fleet.fleet import Fleet, new_user

WAVE = 250  # runs, then the pools are looked at
BEGUN_S, ENDED_S = 60.0, 60.0
HUNG_UP_EVERY_S, ASKED_EVERY_S = 0.1, 0.2  # by each neighbour
PAUSE_S = 0.02  # of neighbours, after each call: else they leave no processor time to anybody
RESET = struct.pack("ii", 1, 0)
ENDS = ("cancel", "deadline", "kill")
SHOWN = 10
# Whatever is stored for a run has to say so.
STRAY = {
    "events": "SELECT count(*) FROM lanewise.run_events WHERE type = 'agent_thinking' "
    "AND data ->> 'text' NOT LIKE user_id || ' ' || run_id || ' %'",
    "steps": "SELECT count(*) FROM lanewise.run_steps WHERE result #>> '{}' NOT LIKE user_id || ' ' || run_id || ' %'",
    "states": "SELECT count(*) FROM lanewise.agent_state WHERE value #>> '{}' NOT LIKE user_id || ' ' || run_id || ' %'",
}
LIVE = "SELECT count(*) FROM lanewise.runs WHERE agent = 'call' AND status IN ('queued', 'running')"


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
    at_once: int = 6
    neighbours: int = 3
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Result:
    """What came of it.

    Args:
        middle: runs that ended with a call under way, by how they were ended and by the call.
        foreign: answers that were somebody else's, or not what they must be.
        checked: answers that were looked at.
        hung_up: requests whose client went away before any answer.
    """

    plan: Plan
    ended: Counter[str] = field(default_factory=Counter)
    middle: Counter[tuple[str, str]] = field(default_factory=Counter)
    checked: Counter[str] = field(default_factory=Counter)
    foreign: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)  # what went wrong in another way
    hung_up: int = 0
    took_s: float = 0.0


@dataclass(frozen=True)
class Neighbour:
    """A run that nobody ends."""

    user: str
    run_id: str
    mark: Mark


class Interrupts:
    """Makes waves of runs that are ended, and watches everybody else.

    Args:
        folder: for marks.
    """

    def __init__(self, fleet: Fleet, folder: Path, plan: Plan) -> None:
        self.result = Result(plan)
        self._fleet = fleet
        self._folder = folder
        self._plan = plan
        self._chance = random.Random(plan.seed)
        self._lock = threading.Lock()
        self._users = [new_user(f"caller{number}") for number in range(plan.at_once)]
        self._askers = [new_user(f"asker{number}") for number in range(plan.neighbours)]
        self._over = threading.Event()
        self._never = folder / "never"

    def run(self) -> Result:
        """Makes all waves; stops early once a foreign answer was seen."""
        began = time.monotonic()
        with ExitStack() as stack:
            for user in self._askers:
                self._fleet.client(user).put_document("own", user)
                stack.enter_context(self._in_thread(self._ask, user))
                stack.enter_context(self._in_thread(self._hang_up, user))
                stack.enter_context(self._listening(user))
            while self.result.ended.total() < self._plan.runs and not self.result.foreign:
                self._wave()
            self._over.set()
        self._look_at_rows()
        self.result.took_s = time.monotonic() - began
        return self.result

    def _wave(self) -> None:
        gate = self._folder / f"gate-{self.result.ended.total()}"
        neighbours = [self._begin(user, gate, pause_s=PAUSE_S) for user in self._askers]
        count = min(WAVE, self._plan.runs - self.result.ended.total())
        chances = [random.Random(self._chance.getrandbits(64)) for _ in range(count)]
        with ThreadPoolExecutor(self._plan.at_once) as pool:
            victims = list(pool.map(self._end_one, self._users * (1 + count // len(self._users)), chances))
        if not wait_until(lambda: self._live() <= len(neighbours), ENDED_S):
            self.result.broken.append("runs do not end")
        for how, mark in victims:
            self._count(how, mark)
        gate.touch()
        for neighbour in neighbours:
            self._judge(neighbour)
        self._probe()

    def _end_one(self, user: str, chance: random.Random) -> tuple[str, Mark]:
        """Begins a run and ends it at a random moment."""
        how = chance.choice(ENDS)
        limit = chance.uniform(0.1, 0.5) if how == "deadline" else None
        victim = self._begin(user, self._never, limit_s=limit)
        if how == "deadline":
            return how, victim.mark
        if not wait_until(lambda: victim.mark.load().begun > 0, BEGUN_S):
            self.result.broken.append(f"a run did not begin: {self._fleet.run(user, victim.run_id)}")
            return how, victim.mark
        time.sleep(chance.uniform(0, 0.1))
        if how == "cancel":
            self._fleet.client(user).cancel(victim.run_id)
        else:
            _kill(victim.mark.load().pid)
        return how, victim.mark

    def _begin(self, user: str, until: Path, *, limit_s: float | None = None, **task: float) -> Neighbour:
        path = self._folder / f"mark-{time.monotonic_ns()}-{user}"
        mark = Mark.make(path)
        given = {"mark": str(path), "until": str(until), **task}
        return Neighbour(user, self._fleet.submit(user, "call", given, time_limit_s=limit_s)["id"], mark)

    def _count(self, how: str, mark: Mark) -> None:
        """Notes how a run was ended, and whether in the middle of a call."""
        mark.load()
        self.result.ended[how] += mark.begun > 0
        if mark.open:
            self.result.middle[how, list(KINDS)[mark.kind]] += 1
        self.result.checked["of ended runs"] += mark.answered
        self._note(mark.foreign)
        mark.close()

    def _judge(self, neighbour: Neighbour) -> None:
        run = self._fleet.wait(neighbour.user, neighbour.run_id, status=None, timeout_s=ENDED_S)
        mark = neighbour.mark.load()
        self.result.checked["of neighbours"] += mark.answered
        self._note(mark.foreign)
        if run["status"] != "completed" and not mark.foreign:
            self.result.broken.append(f"a neighbour ended as {run['status']}: {run['error']}")
        mark.close()

    def _probe(self) -> None:
        """Uses as many pooled connections at once as there may be, of workers and apis, and checks whose answers come."""
        with ThreadPoolExecutor(self._plan.at_once) as pool:
            probes = list(pool.map(lambda user: self._begin(user, self._never, calls=2 * len(KINDS)), self._users))
            list(pool.map(self._judge, probes))
            list(pool.map(self._check_answers, self._askers * 2))

    def _ask(self, user: str) -> None:
        while not self._over.wait(ASKED_EVERY_S):
            self._check_answers(user)

    def _check_answers(self, user: str) -> None:
        headers = {"Authorization": f"Bearer {self._fleet.token(user)}"}
        with suppress(httpx.HTTPError), plain.client(base_url=self._fleet.url, headers=headers, timeout=30) as http:
            document, own = http.get("/v1/documents/own"), http.get("/v1/me")
            if document.is_success and document.text != user:
                self._note(f"the document of {document.text!r} for {user!r}")
            if own.is_success and own.json()["user_id"] != user:
                self._note(f"{own.text} for {user!r}")
            with self._lock:
                self.result.checked["of the api"] += document.is_success + own.is_success

    def _hang_up(self, user: str) -> None:
        """Sends requests and resets the connection, most often before there is an answer."""
        url, chance = urlsplit(self._fleet.url), random.Random(user)
        paths = ("/v1/documents/own", "/v1/me", "/v1/runs?limit=200", "/v1/threads")
        while not self._over.wait(chance.uniform(0, 2 * HUNG_UP_EVERY_S)):
            with suppress(OSError), socket.create_connection((url.hostname, url.port), timeout=5) as sock:
                head = (
                    f"GET {chance.choice(paths)} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {self._fleet.token(user)}"
                )
                sock.sendall(f"{head}\r\n\r\n".encode())
                time.sleep(chance.uniform(0, 0.005))
                sock.setblocking(False)
                with suppress(BlockingIOError):
                    sock.recv(1)
                    continue
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                with self._lock:
                    self.result.hung_up += 1

    @contextmanager
    def _listening(self, user: str) -> Iterator[None]:
        """Looks at every event that a neighbour gets."""
        headers = {"Authorization": f"Bearer {self._fleet.token(user)}"}
        with connect(self._fleet.stream_url, additional_headers=headers) as stream:
            stream.send(json.dumps({"t": "hello", "v": 1, "after": None}))

            def listen() -> None:
                with suppress(ConnectionClosed):
                    for text in stream:
                        event = json.loads(text)
                        if event.get("type") == "agent_thinking":
                            self.result.checked["of streams"] += 1
                            if not event["data"]["text"].startswith(f"{user} {event['run_id']} "):
                                self._note(f"the event {text!r} for {user!r}")

            with self._in_thread(listen):
                try:
                    yield
                finally:
                    stream.close()

    @contextmanager
    def _in_thread(self, work: Callable[..., None], *arguments: Any) -> Iterator[None]:
        thread = threading.Thread(target=work, args=arguments)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _look_at_rows(self) -> None:
        with self._fleet.superuser().connect() as connection:
            for name, statement in STRAY.items():
                if stray := connection.scalar(sa.text(statement)):
                    self._note(f"{stray} {name} are stored for another run")

    def _live(self) -> int:
        with self._fleet.superuser().connect() as connection:
            return int(connection.scalar(sa.text(LIVE)) or 0)

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


def interrupt(plan: Plan) -> Result:
    """Makes one run of the part; everything is ended when it returns."""
    slots = plan.at_once + plan.neighbours  # ended runs hold theirs for a moment
    sizes = ("--workers", "2", "--slots", str(slots), "--no-flower")
    env = {
        "LANEWISE_AGENTS": "tests.chaos.callers", "LANEWISE_CANCEL_GRACE_S": "0.1",
        "LANEWISE_USER_CONCURRENT_RUNS": "8", **plan.env,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="lanewise-marks-") as folder, Fleet.start(*sizes, env=env) as fleet:
        return Interrupts(fleet, Path(folder), plan).run()


def run(options: Options) -> bool:
    """Makes the long run and reports."""
    return report(interrupt(Plan(options.seed, runs=options.runs or Plan.runs)))


def report(result: Result) -> bool:
    """Prints the figures; tells whether enough happened and nobody got what is another's."""
    say("call under way        " + "".join(f"{how:>10}" for how in ENDS))
    for kind in KINDS:
        say(f"{kind:22}" + "".join(f"{result.middle[how, kind]:10}" for how in ENDS))
    say(f"{'none':22}" + "".join(f"{result.ended[how] - _middle(result, how):10}" for how in ENDS))
    say(f"answers checked:      {', '.join(f'{who}: {count}' for who, count in sorted(result.checked.items()))}")
    say(f"requests hung up:     {result.hung_up}")
    for name, found in (("FOREIGN", result.foreign), ("BROKEN", result.broken)):
        for text in found[:SHOWN]:
            say(f"{name} {text}")
    say(
        f"seed {result.plan.seed}: {result.took_s:.0f} s, {result.ended.total()} runs ended, "
        f"{result.middle.total()} of them in the middle of a call, {len(result.foreign)} foreign answers"
    )
    return not result.foreign and not result.broken and is_enough(result)


def is_enough(result: Result) -> bool:
    """Tells whether runs were ended in the middle of each kind of call, in each way often, and others looked."""
    often = all(_middle(result, how) >= result.plan.runs // 10 for how in ENDS)
    kinds = all(any(result.middle[how, kind] for how in ENDS) for kind in KINDS)
    return often and kinds and result.ended.total() >= result.plan.runs * 0.9 and len(result.checked) == 4  # noqa: PLR2004


def _middle(result: Result, how: str) -> int:
    return sum(result.middle[how, kind] for kind in KINDS)


def is_found(name: str, seed: int) -> bool:
    """Makes a short run with something broken; tells whether a foreign answer was seen, or none with a control."""
    from tests.chaos.interrupt_sabotage import CONTROLS  # noqa: PLC0415 - breaks need it, nothing else

    with sabotaged("tests.chaos.interrupt_sabotage", name) as env:
        result = interrupt(Plan(seed, runs=200, env=env))
    report(result)
    return bool(result.foreign) == (name not in CONTROLS)
