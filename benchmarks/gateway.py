"""How fast events get from Redis to the sockets of many users, beside others that do no more than that."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from benchmarks import stand
from benchmarks.fleet import Fleet, Lab
from benchmarks.report import Figure, percentile
from benchmarks.stand import Publisher, Readers, Server
from lanewise.ports import LOOPBACK

USERS = 50
SOCKETS_EACH = 20
SLOW = USERS  # the number of a user more, who has two sockets and gets big events
TEXT = 20  # characters, as a few tokens of a model
STEADY = 5_000  # delivered/s, as is FLOOD
FLOOD = 80_000
SLOW_RATE, SLOW_TEXT = 100, 16_000  # events/s, characters
PAUSE_S = 0.05
CLOSED = {"codes": [4408]}
Run = tuple[str, str]  # user and run


@dataclass(frozen=True)
class Delivered:
    """What came of publishing for some seconds.

    Args:
        latencies_ms: from just before the publish command to the client, but not those of the big events.
        per_s: frames, from the first to the last.
        cpu_us: processor time of the server for each frame.
        missing: frames that did not come, or came on a socket where others are missing before them.
        grown_mib: by how much the server's memory was higher than before, at its highest.
        rest_ms: times of requests meanwhile.
    """

    latencies_ms: list[float]
    per_s: float
    cpu_us: float
    missing: int
    grown_mib: float
    rest_ms: list[float]


class Bench:
    """One server, its readers, and what is published.

    Args:
        server: which.
        readers: a process for them.
        runs: the big events' one is the last.
        seconds: that each measurement takes.
    """

    def __init__(self, server: Server, readers: Readers, runs: Sequence[Run], seconds: float) -> None:
        self.server = server
        self._readers = readers
        self._runs = runs
        self._seconds = seconds
        self._big_sockets = 2
        sockets = [
            server.socket(user_id, n) for n, (user_id, _) in enumerate(runs[:USERS]) for _ in range(SOCKETS_EACH)
        ]
        readers.ask("open", sockets=[*sockets, *[server.socket(runs[SLOW][0], SLOW)] * self._big_sockets])

    def stall(self) -> None:
        """Has one of the sockets that get big events not be read any more."""
        self._readers.ask("stall", user=SLOW)
        self._big_sockets -= 1

    def deliver(
        self, rate: float, *, each: int = 1, big: bool = False, rest: Callable[[], float] | None = None
    ) -> Delivered:
        """Publishes and counts.

        Args:
            rate: delivered/s.
            each: one frame in so many is parsed and timed.
            big: whether the last user gets big events besides.
            rest: called all the time; returns milliseconds.

        Raises:
            RuntimeError: a frame of ours is missing.
        """
        server, events = self.server, int(rate / SOCKETS_EACH * self._seconds / USERS) * USERS
        frames = events * SOCKETS_EACH + (int(SLOW_RATE * self._seconds) * self._big_sockets if big else 0)
        self._readers.tell("count", frames=frames, each=each)
        cpu_s, memory, rest_ms = server.cpu_s(), [server.pss_kib()], []
        publishers = [Publisher(server.fleet, self._runs[:USERS], rate / SOCKETS_EACH, self._seconds, TEXT)]
        if big:
            publishers.append(Publisher(server.fleet, self._runs[USERS:], SLOW_RATE, self._seconds, SLOW_TEXT))
        while any(publisher.busy for publisher in publishers):
            rest_ms += [rest()] if rest else []
            memory.append(server.pss_kib())
            time.sleep(PAUSE_S)
        published: dict[str, Any] = {}
        for publisher in publishers:
            published |= publisher.result()["published"]
        counted = self._readers.answer()
        if server.ours and (counted["frames"] != frames or counted["gone"]):
            raise RuntimeError(f"{counted['frames']} of {frames} frames came; closed: {counted['gone']}")
        return Delivered(
            _latencies(counted["samples"], self._runs, published),
            counted["frames"] / counted["seconds"],
            (server.cpu_s() - cpu_s) / counted["frames"] * 1e6,
            frames - counted["frames"],
            (max(memory) - memory[0]) / 1024,
            rest_ms,
        )

    def check_closed(self) -> None:
        """Sees that our gateway has given up who does not read.

        Raises:
            RuntimeError: it was not closed, or with another code.
        """
        if self.server.ours and (said := self._readers.ask("wake")) != CLOSED:
            raise RuntimeError(f"the slow reader was told {said}")


def _latencies(samples: list[tuple[int, int, float]], runs: Sequence[Run], published: dict[str, Any]) -> list[float]:
    latencies = []
    for number, seq, at in samples:
        if number != SLOW:
            first, times = published[runs[number][0]]
            latencies.append((at - times[seq - first]) * 1e3)
    return latencies


def measure(lab: Lab) -> list[Figure]:
    """Publishes what is stored in the log at the same moment, to 1,000 sockets of 50 users; each server in turn."""
    seconds = 4 if lab.quick else 8
    found: dict[str, list[Figure]] = {}
    rest: list[Figure] = []
    with Fleet(USERS + 1, limit=1) as fleet:
        runs = [(f"bench-{n}", fleet.client(f"bench-{n}").submit("bench_wait", {})["id"]) for n in range(USERS + 1)]
        for _, run_id in runs:
            fleet.event(run_id, "agent_thinking")
        for start in (stand.lanewise, stand.flask_sock, stand.websockets):
            with ExitStack() as stack:
                server = stack.enter_context(start(fleet))
                bench = Bench(server, stack.enter_context(Readers()), runs, seconds)
                rest += _rest(bench) if server.ours else []
                found[server.name] = _all(bench)
    return [figure for figures in zip(*found.values(), strict=True) for figure in _beside(figures)] + rest


def _all(bench: Bench) -> list[Figure]:
    """Measures what all servers do; the slow reader comes last."""
    steady = bench.deliver(STEADY)
    flood = bench.deliver(FLOOD, each=100)
    read = bench.deliver(STEADY, big=True)
    bench.stall()
    stalled = bench.deliver(STEADY, big=True)
    bench.check_closed()
    name, ours = bench.server.name, bench.server.ours

    def figure(what: str, sample: float, unit: str, target: str = "") -> Figure:
        return Figure(f"{name}: {what}", [sample], unit, target if ours else "")

    return [
        figure("publish -> client at 5,000/s, p50", percentile(steady.latencies_ms, 50), "ms"),
        figure("publish -> client at 5,000/s, p99", percentile(steady.latencies_ms, 99), "ms", "<= 50"),
        figure("processor time of a delivery at 5,000/s", steady.cpu_us, "µs"),
        figure("delivered, if more is published", flood.per_s, "frames/s", ">= 50,000"),
        figure("processor time of a delivery then", flood.cpu_us, "µs"),
        figure("frames missing then", flood.missing, "", "0"),
        figure("p99 beside big events, all read", percentile(read.latencies_ms, 99), "ms"),
        figure("p99 beside big events, one does not read", percentile(stalled.latencies_ms, 99), "ms", "the same"),
        figure("memory added while all read", read.grown_mib, "MiB"),
        figure("memory added while one does not read", stalled.grown_mib, "MiB", "<= 5"),
    ]


def _beside(figures: Sequence[Figure]) -> list[Figure]:
    """Returns ours, then the others', then theirs divided by ours, if they are greater than nothing."""
    ours, *others = figures
    if not ours.median:
        return [*figures]
    return [
        *figures,
        *(
            Figure(f"  {other.name.partition(':')[0]} / Lanewise", [other.median / ours.median], "times")
            for other in others
        ),
    ]


def _rest(bench: Bench) -> list[Figure]:
    """Times requests of another user while nothing is published, and while much is."""
    rest = _request_of(bench.server)
    rest()
    idle = []
    for _ in range(100):
        idle.append(rest())
        time.sleep(PAUSE_S)
    found = {
        "idle": idle,
        "at 5,000/s": bench.deliver(STEADY, rest=rest).rest_ms,
        "at as many as it can": bench.deliver(FLOOD, each=100, rest=rest).rest_ms,
    }
    return [
        Figure(f"GET /v1/me, {when}, p{percent}", [percentile(samples, percent)], "ms")
        for when, samples in found.items()
        for percent in (50, 99)
    ]


def _request_of(server: Server) -> Callable[[], float]:
    """Returns what makes one request of its own user and returns its milliseconds."""
    connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=30)
    headers = {"Authorization": f"Bearer {server.fleet.token('rest')}"}

    def ask() -> float:
        began = time.monotonic()
        connection.request("GET", "/v1/me", headers=headers)
        answer = connection.getresponse()
        answer.read()
        if answer.status != http.client.OK:
            raise RuntimeError(f"GET /v1/me: {answer.status}")
        return (time.monotonic() - began) * 1e3

    return ask
