"""How many texts agents get through to the log and to their users: each as an event, and joined as tokens are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.fleet import Fleet, Lab, put_load
from benchmarks.report import Figure, percentile
from shared.ids import new_id

ROUNDS = 3
PER_S = 100.0  # as a fast model streams
WAYS = {"each an event": "agent_thinking", "joined": "agent_token"}


class Done(NamedTuple):
    """One measurement: seconds until all was seen, and for each text until it was; what the fleet did for it."""

    texts: int
    seconds: float
    delays: list[float]
    events: int
    commits: int
    cpu_s: float


def measure(lab: Lab) -> list[Figure]:
    """Streams texts of a few bytes, in turn as events that are never joined and as tokens.

    First one agent as fast as it goes: what limits is the way into the log, and back-pressure slows the agent. Then
    an agent in each slot at the pace of a model.
    """
    fast, steady_s = (2000, 2) if lab.quick else (10_000, 5)
    floods: dict[str, list[Done]] = {way: [] for way in WAYS}
    streams: dict[str, list[Done]] = {way: [] for way in WAYS}
    for _ in range(ROUNDS):
        for way, kind in WAYS.items():
            floods[way].append(_stream(lab.fleet, kind, 1, fast, 0))
            streams[way].append(_stream(lab.fleet, kind, lab.SLOTS, round(PER_S * steady_s), PER_S))
    return [figure for way in WAYS for figure in _flood_figures(way, floods[way])] + [
        figure for way in WAYS for figure in _stream_figures(f"{lab.SLOTS} agents, {way}", streams[way])
    ]


def _stream(fleet: Fleet, kind: str, agents: int, count: int, per_s: float) -> Done:
    user, before = f"bench-{new_id()}", sum(fleet.cpu_s().values())
    run_input = {"events": count, "kind": kind, "per_s": per_s}
    load = put_load("events", url=fleet.url, token=fleet.token(user), agents=agents, run_input=run_input)
    cpu_s = sum(fleet.cpu_s().values()) - before
    (found,) = fleet.rows(
        "SELECT count(*) AS events, count(DISTINCT xmin::text) AS commits FROM lanewise.run_events "
        "WHERE user_id = :user AND type = :kind",
        user=user,
        kind=kind,
    )
    seconds, delays = load["result"]["seconds"], load["result"]["delays"]
    return Done(agents * count, seconds, delays, found.events, found.commits, cpu_s)


def _flood_figures(way: str, rounds: list[Done]) -> list[Figure]:
    return [
        Figure(f"as fast as it goes, {way}", [done.texts / done.seconds for done in rounds], "texts/s"),
        *_costs(rounds),
    ]


def _stream_figures(way: str, rounds: list[Done]) -> list[Figure]:
    return [
        Figure(f"{way}: emitted -> seen, p50", _ms(percentile(done.delays, 50) for done in rounds), "ms"),
        Figure("  emitted -> seen, p99", _ms(percentile(done.delays, 99) for done in rounds), "ms"),
        *_costs(rounds),
    ]


def _costs(rounds: list[Done]) -> list[Figure]:
    return [
        Figure("  events in the log for 1,000 texts", [1000 * done.events / done.texts for done in rounds], "events"),
        Figure("  commits for 1,000 texts", [1000 * done.commits / done.texts for done in rounds], "commits"),
        Figure("  processor time for 1,000 texts", _ms(1000 * done.cpu_s / done.texts for done in rounds), "ms"),
    ]


def _ms(seconds: Iterable[float]) -> list[float]:
    return [1000 * value for value in seconds]
