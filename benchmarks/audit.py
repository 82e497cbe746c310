"""What the audit trail costs: a record on the way of a run, and the leader's and the verifier's work per record."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from statistics import median
from typing import Any

import sqlalchemy as sa

from benchmarks.fleet import Lab
from benchmarks.report import Figure
from shared import audit, runs
from shared.acceptance import Accepted, accept
from shared.audit import Deed
from shared.audit_check import Examination, examine
from shared.context import UserExecutionContext
from shared.database import Database, Executor
from shared.ids import new_id
from shared.models import Agent, Run
from shared.outcomes import Cancelled
from shared.signing import MacKeys

USER = "bench-audit"
AGENT = Agent(name="bench_audit", queue="bench_audit", max_attempts=1)


class Unaudited:
    """Executes the same statements without their records; they are signed all the same."""

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self.info = executor.info

    def execute(self, statement: sa.TextClause, params: Mapping[str, Any]) -> Iterable[sa.Row[Any]]:
        """Returns the rows."""
        without = {"record": None, "records": "{}"}
        return self._executor.execute(statement, {name: without.get(name, value) for name, value in params.items()})


def measure(lab: Lab) -> list[Figure]:
    """Accepts and ends runs with their records and without, in turn; then verifies what the leader has sealed."""
    rounds, turns = (3, 100) if lab.quick else (5, 400)
    keys = MacKeys([lab.fleet.secret_key], audit.PURPOSE)
    seen: dict[str, list[float]] = {name: [] for name in ("accept", "accept without", "end", "end without")}
    with closing(Database(lab.fleet.database_url, audit_keys=keys)) as database:
        once = database.once(USER)
        ways: dict[str, Executor] = {"": once, " without": Unaudited(once)}
        for number in range(rounds + 1):  # the first one is for warmth
            found = _turns(ways, turns)
            for name, samples in found.items():
                seen[name] += [median(samples)] if number else []
        signing = [_signing_us(once) for _ in range(rounds)]
        per_s, flaws = _verify(database, keys)
    ratio = {
        name: [a / b for a, b in zip(seen[name], seen[f"{name} without"], strict=True)] for name in ("accept", "end")
    }
    return [
        Figure("accept a run", seen["accept"], "ms"),
        Figure("  with a record / without", ratio["accept"], "times"),
        Figure("end a run", seen["end"], "ms"),
        Figure("  with a record / without", ratio["end"], "times"),
        Figure("sign a record", signing, "us"),
        Figure("verify", [per_s], "records/s"),
        Figure("flaws", [flaws], "", "0"),
    ]


def _turns(ways: Mapping[str, Executor], turns: int) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {f"{what}{way}": [] for what in ("accept", "end") for way in ways}
    for _ in range(turns):
        for way, executor in ways.items():
            made: list[Run] = []
            times[f"accept{way}"].append(_ms(lambda: made.append(_accept(executor))))  # noqa: B023 - called at once
            times[f"end{way}"].append(_ms(lambda: runs.end(executor, made[0], Cancelled(), f"user:{USER}")))  # noqa: B023
    return times


def _accept(executor: Executor) -> Run:
    context = UserExecutionContext.from_request(USER, new_id(), new_id())
    answer = accept(
        executor, context, AGENT, {}, metadata={}, time_limit_s=60, new_thread=True, quota=10_000, slots=1
    )  # fmt: skip
    assert isinstance(answer, Accepted)
    return answer.run


def _signing_us(executor: Executor, times: int = 2000) -> float:
    deed = Deed(USER, f"user:{USER}", "run.submit", new_id(), correlation_id=new_id())
    return _ms(lambda: [audit.to_json(executor, deed) for _ in range(times)]) / times * 1e3


def _verify(database: Database, keys: MacKeys) -> tuple[float, int]:
    examination, flaws = Examination(keys), 0
    began = time.perf_counter()
    for _ in examine(database, examination):
        flaws += 1
    return examination.records / (time.perf_counter() - began), flaws


def _ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3
