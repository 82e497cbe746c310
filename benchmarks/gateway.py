"""How fast events get from Redis to the browsers of many users, beside others that do no more than that."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from benchmarks import stand
from benchmarks.fleet import Fleet, Lab
from benchmarks.report import Figure, percentile
from benchmarks.stand import Publisher, Readers, Server
from lanewise.ports import LOOPBACK

USERS = 50
SOCKETS_EACH = 20
SOCKETS = USERS * SOCKETS_EACH
SLOW = USERS  # the number of a user more, who has two sockets and gets big events
TEXT = 20  # characters, as a few tokens of a model
STEADY = 5_000  # delivered/s
FLOOD = 60_000
SLOW_RATE, SLOW_TEXT = 100, 16_000
PAUSE_S = 0.05


@dataclass
class Delivered:
    """What came of publishing for some seconds.

    Args:
        latencies_ms: from just before the publish command to the client; of the big events' user none.
        per_s: frames, from the first to the last.
        cpu_us: processor time of the server for each frame.
        grown_kib: what memory of the server was added, at its highest.
        rest_ms: times of `GET /v1/me` meanwhile.
    """

    latencies_ms: list[float]
    per_s: float
    cpu_us: float
    grown_kib: float
    rest_ms: list[float] = field(default_factory=list)


class Bench:
    """One server, its readers, and what is published.

    Args:
        server: which.
        readers: with all sockets open.
        runs: user and run, the big events' one the last.
        seconds: that each measurement takes.
    """

    def __init__(self, server: Server, readers: Readers, runs: Sequence[tuple[str, str]], seconds: float) -> None:
        self._server = server
        self._readers = readers
        self._runs = runs
        self._seconds = seconds
        self.stalled = 0

    def deliver(
        self, rate: float, *, each: int = 1, big: bool = False, rest: Callable[[], float] | None = None
    ) -> Delivered:
        """Publishes and counts.

        Args:
            rate: delivered/s.
            each: one frame in so many is parsed and timed.
            big: whether the last user gets big events besides.
            rest: called all the time; returns milliseconds.
        """
        server, fleet = self._server, self._server.fleet
        events = int(rate / SOCKETS_EACH * self._seconds / USERS) * USERS
        frames = events * SOCKETS_EACH + (int(SLOW_RATE * self._seconds) * (2 - self.stalled) if big else 0)
        self._readers.tell("count", frames=frames, each=each)
        cpu_s, memory = server.cpu_s(), [server.pss_kib()]
        publishers = [Publisher(fleet, self._runs[:USERS], rate / SOCKETS_EACH, self._seconds, TEXT)]
        if big:
            publishers.append(Publisher(fleet, self._runs[USERS:], SLOW_RATE, self._seconds, SLOW_TEXT))
        rest_ms = []
        while any(publisher.busy for publisher in publishers):
            rest_ms += [rest()] if rest else []
            memory.append(server.pss_kib() if big else 0)
            time.sleep(PAUSE_S)
        published: dict[str, Any] = {}
        for publisher in publishers:
            published |= publisher.result()["published"]
        counted = self._readers.answer()
        if counted["gone"]:
            raise RuntimeError(f"sockets were closed: {counted['gone']}")
        return Delivered(
            _latencies(counted["samples"], self._runs, published),
            frames / counted["seconds"],
            (server.cpu_s() - cpu_s) / frames * 1e6,
            max(memory) - memory[0],
            rest_ms,
        )


def _latencies(
    samples: list[tuple[int, int, float]], runs: Sequence[tuple[str, str]], published: dict[str, Any]
) -> list[float]:
    latencies = []
    for number, seq, at in samples:
        if number != SLOW:
            first, times = published[runs[number][0]]
            latencies.append((at - times[seq - first]) * 1e3)
    return latencies


def rest_of(server: Server) -> Callable[[], float]:
    """Returns what times one `GET /v1/me`, in milliseconds."""
    connection = http.client.HTTPConnection(LOOPBACK, server.port, timeout=10)
    headers = {"Authorization": f"Bearer {server.fleet.token('rest')}"}

    def ask() -> float:
        began = time.monotonic()
        connection.request("GET", "/v1/me", headers=headers)
        if connection.getresponse().read() == b"":
            raise RuntimeError("no answer")
        return (time.monotonic() - began) * 1e3

    return ask


def measure(lab: Lab) -> list[Figure]:
    """Publishes what is stored in the log at the same moment, to 1,000 sockets of 50 users."""
    seconds = 4 if lab.quick else 10
    figures: list[Figure] = []
    found: dict[str, dict[str, Figure]] = {}
    with Fleet(USERS + 1, limit=1) as fleet:
        runs = [(f"bench-{n}", fleet.client(f"bench-{n}").submit("bench_wait", {})["id"]) for n in range(USERS + 1)]
        for _, run_id in runs:
            fleet.event(run_id, "agent_thinking")
        for start in (None, stand.flask_sock, stand.websockets):
            with ExitStack() as stack:
                server = stack.enter_context(start(fleet)) if start else stand.lanewise(fleet)
                readers = stack.enter_context(Readers())
                found[server.name] = _measure(server, readers, runs, seconds)
                figures += found[server.name].values()
    return figures


def _measure(server: Server, readers: Readers, runs: Sequence[tuple[str, str]], seconds: float) -> dict[str, Figure]:
    sockets = [server.socket(user_id, n) for n, (user_id, _) in enumerate(runs[:USERS]) for _ in range(SOCKETS_EACH)]
    slow = server.socket(runs[SLOW][0], SLOW)
    opened = readers.ask("open", sockets=[*sockets, slow, slow])
    bench = Bench(server, readers, runs, seconds)
    rest = rest_of(server) if server.ours else None
    if rest:
        rest()
    idle = [rest() for _ in range(100)] if rest else []
    steady = bench.deliver(STEADY)
    flood = bench.deliver(FLOOD, each=100)
    figures = {
        "opened": Figure(f"{server.name}: opened", [SOCKETS / opened["seconds"]], "/s"),
        "p50": Figure(f"{server.name}: publish -> client, p50", [percentile(steady.latencies_ms, 50)], "ms"),
        "p99": Figure(f"{server.name}: publish -> client, p99", [percentile(steady.latencies_ms, 99)], "ms", "<= 50"),
        "cpu": Figure(f"{server.name}: cpu steady", [steady.cpu_us], "us"),
        "flood": Figure(f"{server.name}: flood", [flood.per_s], "/s"),
        "fp50": Figure(f"{server.name}: flood p50", [percentile(flood.latencies_ms, 50)], "ms"),
        "fp99": Figure(f"{server.name}: flood p99", [percentile(flood.latencies_ms, 99)], "ms"),
        "fcpu": Figure(f"{server.name}: cpu flood", [flood.cpu_us], "us"),
    }
    if rest:
        under = bench.deliver(STEADY, rest=rest)
        flooded = bench.deliver(FLOOD, each=100, rest=rest)
        for name, samples in (("idle", idle), ("steady", under.rest_ms), ("flood", flooded.rest_ms)):
            figures["rest " + name] = Figure(f"GET /v1/me, {name}, p50", [percentile(samples, 50)], "ms")
            figures["rest99 " + name] = Figure(f"GET /v1/me, {name}, p99", [percentile(samples, 99)], "ms")
    both = bench.deliver(STEADY, big=True)
    readers.ask("stall", user=SLOW)
    bench.stalled = 1
    one = bench.deliver(STEADY, big=True)
    woken = readers.ask("wake") if server.ours else {}
    print(server.name, woken)
    figures["both99"] = Figure(f"{server.name}: big, all read p99", [percentile(both.latencies_ms, 99)], "ms")
    figures["one99"] = Figure(f"{server.name}: big, one stalled p99", [percentile(one.latencies_ms, 99)], "ms")
    figures["bothg"] = Figure(f"{server.name}: big, all read grown", [both.grown_kib / 1024], "MiB")
    figures["oneg"] = Figure(f"{server.name}: big, one stalled grown", [one.grown_kib / 1024], "MiB")
    return figures
