"""How many events one sandbox gets through to the log and to its user."""

from __future__ import annotations

from benchmarks.fleet import Lab, put_load
from benchmarks.report import Figure

ROUNDS = 3


def measure(lab: Lab) -> list[Figure]:
    """Streams tokens as fast as they are taken: what limits is the event writer, and back-pressure slows the agent."""
    count = 2000 if lab.quick else 10_000
    token = lab.fleet.token("bench-events")
    rounds = [put_load("events", url=lab.fleet.url, token=token, count=count)["result"] for _ in range(ROUNDS)]
    return [
        Figure("into the log", [count / done["log_s"] for done in rounds], "events/s"),
        Figure("seen over the WebSocket", [count / done["stream_s"] for done in rounds], "events/s"),
    ]
