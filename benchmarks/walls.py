"""What the walls cost: one run's whole way with and without each of them, in turn, in one run of this program."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from benchmarks.fleet import ROOT, Fleet, Lab, put_load
from benchmarks.report import Figure

USERS = 4
CONNECTIONS = 2  # of each user, to submit by
OUTSTANDING = 6  # runs of each user that are submitted and have not ended
MOST = 1.05  # what a wall may cost

_TABLES = "SELECT DISTINCT CAST(CAST(polrelid AS regclass) AS text) AS name FROM pg_policy"


def _row_security(fleet: Fleet, *, on: bool) -> None:
    for table in fleet.rows(_TABLES):  # each for itself: who locks several waits for a run that waits for it
        fleet.rows(f"ALTER TABLE {table.name} {'ENABLE' if on else 'DISABLE'} ROW LEVEL SECURITY")


@dataclass(frozen=True)
class Without:
    """A fleet that lacks walls: the common one, in which they are switched, or one of its own that never had them.

    Args:
        wall: their name.
        switch: puts them up (`on`), or takes them away.
        env: settings of a fleet of its own.
    """

    wall: str
    switch: Callable[..., None] | None = None
    env: Mapping[str, str] | None = None


_UNWALLED = {"PYTHONPATH": str(ROOT / "benchmarks" / "unwalled")}
WALLS = (
    Without("all walls", _row_security, env=_UNWALLED),
    Without("row level security", _row_security),
    Without("the sandboxes' walls", env=_UNWALLED),
)


@dataclass
class Seen:
    """Samples of what costs: with the wall and without, a pair for each round."""

    with_it: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    without: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


def measure(lab: Lab) -> list[Figure]:
    """Measures all walls against none, and each kind for itself, with the others in place.

    A round is one measurement with the wall and one without, the one and the other first by turns, so that a machine
    that becomes slower or faster meanwhile favours neither. What counts is the median of the rounds' ratios.
    """
    rounds = 2 if lab.quick else 10
    figures = []
    for wall in WALLS:
        seen = Seen()
        with ExitStack() as stack:
            fleet = lab.fleet if wall.env is None else stack.enter_context(Fleet(lab.SLOTS, env=wall.env))
            for number in range(rounds):
                for has_wall in (True, False) if number % 2 else (False, True):
                    if has_wall:
                        measured = _one_run(lab.fleet, quick=lab.quick)
                    else:
                        with _removed(wall, fleet):
                            measured = _one_run(fleet, quick=lab.quick)
                    for what, value in measured.items():
                        (seen.with_it if has_wall else seen.without)[what].append(value)
        figures += _figures(wall.wall, seen)
    return figures


@contextmanager
def _removed(wall: Without, fleet: Fleet) -> Iterator[None]:
    if wall.switch is None:
        yield
        return
    wall.switch(fleet, on=False)
    try:
        yield
    finally:
        wall.switch(fleet, on=True)


def _one_run(fleet: Fleet, *, quick: bool) -> dict[str, float]:
    """Returns runs a second, a run's processor time, and its median time on an idle fleet, also with a query; in ms."""
    runs, alone = (100, 20) if quick else (200, 40)
    tokens = [fleet.token(f"walls-{number}") for number in range(USERS)]
    load: dict[str, Any] = {"url": fleet.url, "tokens": tokens, "outstanding": OUTSTANDING, "connections": CONNECTIONS}
    put_load("runs", None, **load, count=50)  # warm: plans are made anew
    before = fleet.cpu_s()
    seconds = put_load("runs", None, **load, count=runs)["result"]["seconds"]
    used_ms = {kind: (used_s - before[kind]) / runs * 1e3 for kind, used_s in fleet.cpu_s().items()}
    times, asking = (
        put_load("latency", url=fleet.url, token=tokens[0], count=alone, agent=agent)["result"]
        for agent in ("bench_noop", "bench_query")
    )
    return {
        "runs/s": runs / seconds,
        "processor": sum(used_ms.values()),
        "postgres": used_ms["postgres"],
        "latency": median(run["run_completed"] for run in times) * 1e3,
        "asking": median(run["run_completed"] for run in asking) * 1e3,
    }


def _figures(wall: str, seen: Seen) -> list[Figure]:
    figures = []
    for what, unit, target, name in (
        ("runs/s", "runs/s", f">= {1 / MOST:.2f}", "runs through the whole way"),
        ("latency", "ms", f"<= {MOST}", "submit -> run_completed, p50"),
        ("asking", "ms", f"<= {MOST}", "the same, of an agent with a query"),
        ("processor", "ms", "", "processor time per run, the fleet's"),
        ("postgres", "ms", "", "  Postgres'"),
    ):
        with_it, without = seen.with_it[what], seen.without[what]
        figures += [
            Figure(f"{name}, with {wall}", with_it, unit),
            Figure("    without", without, unit),
            Figure("    with / without", [a / b for a, b in zip(with_it, without, strict=True)], "times", target),
        ]
    return figures
