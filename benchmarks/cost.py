"""What submitting and starting a run cost when very many are parked: another hundred thousand must not be noticed."""

from __future__ import annotations

import json
from collections import defaultdict
from statistics import median
from typing import Any

from benchmarks.fleet import Fleet, Lab, put_load
from benchmarks.report import Figure
from lanewise.process import wait_until
from shared.context import UserExecutionContext
from shared.redis import Keys, connect
from shared.slots import Slots, member

SLOTS = 8
AGENT = "bench_turn"
ELSEWHERE = "bench_elsewhere"
SETTLE_S = 20.0
LEASE_S = 15.0
TARGET = "<= 1.3"
RELEASE_TARGET = "<= 1.5"

# A worker that keeps its granted runs waiting: it is nothing but a row.
_ELSEWHERE = """
    INSERT INTO lanewise.workers (id, name, agents, queues, slots, heartbeat_at)
    VALUES (:name, :name, ARRAY[:name], ARRAY[:name], 1, now() + interval '1 day')
"""
_THREADS = """
    INSERT INTO lanewise.threads (user_id, id, metadata)
    SELECT DISTINCT format(:user, n), 'bench', CAST('{}' AS jsonb) FROM generate_series(1, :count) n
    ON CONFLICT DO NOTHING
"""
_RUNS = """
    INSERT INTO lanewise.runs (user_id, id, thread_id, agent, queue, status, input, metadata, context, correlation_id,
        max_attempts, time_limit_s, position_told, granted_at, sent_at, sends)
    SELECT user_id, id, 'bench', :agent, :queue, 'queued', CAST(:input AS jsonb), CAST('{}' AS jsonb),
        CAST(:context AS jsonb) || jsonb_build_object('user_id', user_id, 'run_id', id), 'bench', 3, 600,
        CASE WHEN NOT :granted AND place <= 10 THEN place END,
        CASE WHEN :granted THEN now() END, CASE WHEN :granted THEN now() END, CAST(:granted AS integer)
    FROM (SELECT format(:user, n) AS user_id, format('%s-%s', CAST(:name AS text), lpad(CAST(n AS text), 6, '0')) AS id,
            row_number() OVER (PARTITION BY format(:user, n) ORDER BY n) AS place
        FROM generate_series(1, :count) n) made
"""
_PARKED = """
    SELECT count(*) FROM lanewise.runs
    WHERE user_id LIKE :user AND id LIKE 'parked-%' AND status = 'queued' AND granted_at IS NULL
"""
_DISPATCH = """
    SELECT extract(epoch FROM started.at - queued.at) AS seconds
    FROM lanewise.run_events queued JOIN lanewise.run_events started USING (user_id, run_id)
    WHERE user_id = :user AND queued.type = 'run_queued' AND started.type = 'run_started'
"""
_ENDS_AND_STARTS = """
    SELECT extract(epoch FROM at) AS at FROM lanewise.run_events
    WHERE user_id = :user AND type IN ('run_completed', 'run_started') ORDER BY seq DESC LIMIT :count
"""


def measure(lab: Lab) -> list[Figure]:
    """Measures on a fleet where a user may have one run in progress. Takes about a minute and a half.

    What is measured is one turn: a user, whose only slot is occupied and who has `n` parked runs, submits one more
    (until 202 is answered; it is parked, too), then the run in progress ends, and the oldest parked one starts (from
    `run_completed` to `run_started`, by the times in the log). So there are `n` again. The run in progress waits for
    a file, so nothing else goes on meanwhile.

    Runs of one user: a user with 1 parked run and one with 100,000, in turn on the same fleet, and beside them a third
    user who has nothing: the time from `run_queued` to `run_started` of a run that finds a free slot.

    Many users: the turns of one user with 1 parked run, while 9 or 9,999 others have a parked run and a granted one
    that occupies their slot (of an agent that only a worker has who never comes to it, so it stays). The others are
    made and removed in turn.

    All those rows are made by SQL, as if their places had been told; then the planner's statistics are brought up to
    date, as autovacuum does within a minute.
    """
    with Fleet(SLOTS, limit=1) as fleet:
        return [*_one_user(fleet, quick=lab.quick), *_many_users(fleet, quick=lab.quick)]


def _one_user(fleet: Fleet, *, quick: bool) -> list[Figure]:
    parked, rounds, turns = (10_000, 2, 20) if quick else (100_000, 4, 50)
    fleet.rows("INSERT INTO lanewise.user_limits VALUES ('many', 1, :most)", most=2 * parked)
    for user in ("few", "many"):
        _occupy(fleet, user)
    _submit(fleet, "few")
    _take_turns(fleet, "few", 10)  # warm
    first = _take_turns(fleet, "few", turns)
    _park(fleet, "many", "parked", parked)
    seen: dict[str, list[float]] = defaultdict(list)
    dispatch = []
    for number in range(rounds):
        dispatch.append(_dispatch_ms(fleet, f"free-{number}", turns))
        for user in ("few", "many"):
            for what, ms in _take_turns(fleet, user, turns).items():
                seen[f"{what} {user}"].append(ms)
    _check_parked(fleet, "many", parked - (rounds * turns))
    return [
        Figure("submit, 1 parked run, p50", seen["submit few"], "ms"),
        Figure(f"submit, {parked:,} parked runs of the user, p50", seen["submit many"], "ms"),
        Figure("  many / 1", _ratios(seen["submit many"], seen["submit few"]), "times", TARGET),
        Figure("release -> run_started, 1 parked run, p50", seen["release few"], "ms"),
        Figure(f"release -> run_started, {parked:,} parked runs of the user, p50", seen["release many"], "ms"),
        Figure("  many / 1", _ratios(seen["release many"], seen["release few"]), "times", TARGET),
        Figure("run_queued -> run_started with a free slot, p50", dispatch, "ms"),
        Figure("  release / with a free slot", _ratios(seen["release few"], dispatch), "times", RELEASE_TARGET),
        Figure("before the many were there: submit, p50", [first["submit"]], "ms"),
        Figure("before the many were there: release -> run_started, p50", [first["release"]], "ms"),
    ]


def _many_users(fleet: Fleet, *, quick: bool) -> list[Figure]:
    few, many, rounds, turns = (10, 1000, 1, 20) if quick else (10, 10_000, 2, 50)
    fleet.rows("DELETE FROM lanewise.threads WHERE user_id = 'many' AND id = 'bench'")  # and the runs in it
    fleet.rows(_ELSEWHERE, name=ELSEWHERE)
    _occupy(fleet, "one")
    _submit(fleet, "one")
    _take_turns(fleet, "one", 10)  # warm
    seen: dict[str, list[float]] = defaultdict(list)
    for number in range(rounds):
        for users in (few, many):
            others = f"other-{number}-{users}"
            _take_slots(fleet, others, users - 1)
            _park(fleet, f"{others}-%s", "granted", users - 1, granted=True)
            _park(fleet, f"{others}-%s", "parked", users - 1)
            for what, ms in _take_turns(fleet, "one", turns).items():
                seen[f"{what} {users}"].append(ms)
            _check_parked(fleet, f"{others}-%", users - 1)
            fleet.rows("DELETE FROM lanewise.threads WHERE user_id LIKE :others", others=f"{others}-%")
    figures = []
    for what, name in (("submit", "submit"), ("release", "release -> run_started")):
        few_ms, many_ms = seen[f"{what} {few}"], seen[f"{what} {many}"]
        figures += [
            Figure(f"{name}, {few} users with parked runs, p50", few_ms, "ms"),
            Figure(f"{name}, {many:,} users with parked runs, p50", many_ms, "ms"),
            Figure("  many / few", _ratios(many_ms, few_ms), "times", TARGET),
        ]
    return figures


def _submit(fleet: Fleet, user: str) -> None:
    load = {"tokens": [fleet.token(user)], "count": 1, "agent": AGENT, "run_input": {"turn": _turn(fleet, user)}}
    put_load("submissions", None, url=fleet.url, **load)


def _occupy(fleet: Fleet, user: str) -> None:
    _submit(fleet, user)
    query = "SELECT FROM lanewise.runs WHERE user_id = :user AND status = 'running'"
    if not wait_until(lambda: bool(fleet.rows(query, user=user)), SETTLE_S):
        raise TimeoutError("the run that occupies the slot did not start")


def _take_turns(fleet: Fleet, user: str, count: int) -> dict[str, float]:
    """Returns the medians, in ms."""
    turn = _turn(fleet, user)
    submit_s = put_load("turns", None, url=fleet.url, token=fleet.token(user), turn=turn, count=count)["result"]
    moments = [float(row.at) for row in fleet.rows(_ENDS_AND_STARTS, user=user, count=2 * count)]
    release_s = [started - ended for started, ended in zip(moments[::2], moments[1::2], strict=True)]
    return {"submit": median(submit_s) * 1e3, "release": median(release_s) * 1e3}


def _dispatch_ms(fleet: Fleet, user: str, count: int) -> float:
    """Returns the median, in ms, of a user of whom no run waits for another: one after the other, three may be."""
    fleet.rows("INSERT INTO lanewise.user_limits VALUES (:user, 3, NULL)", user=user)
    put_load("latency", None, url=fleet.url, token=fleet.token(user), count=count)
    return median(float(row.seconds) for row in fleet.rows(_DISPATCH, user=user)) * 1e3


def _park(fleet: Fleet, user: str, name: str, count: int, *, granted: bool = False) -> None:
    """Makes `count` queued runs by SQL.

    Args:
        fleet: where.
        user: whose; `%s` is the number of the run, so that each run has a user of its own.
        name: the first part of their ids.
        count: how many.
        granted: whether they are granted, of the agent that is elsewhere; else parked, of one that the worker has.
    """
    context: dict[str, Any] = UserExecutionContext.from_request(
        "user", "bench", "run", correlation_id="bench"
    ).to_dict()
    fleet.rows(_THREADS, user=user, count=count)
    fleet.rows(
        _RUNS,
        user=user,
        name=name,
        count=count,
        granted=granted,
        agent=ELSEWHERE if granted else AGENT,
        queue=ELSEWHERE if granted else "default",
        input=json.dumps({"turn": _turn(fleet, user)}),
        context=json.dumps(context),
    )
    fleet.rows("ANALYZE lanewise.threads")
    fleet.rows("ANALYZE lanewise.runs")


def _take_slots(fleet: Fleet, others: str, count: int) -> None:
    """Puts the slots of the granted runs into Redis; the leader would take them one by one."""
    slots = Slots(connect(fleet.redis_url), Keys("default"), LEASE_S)
    for number in range(1, count + 1):
        slots.acquire(f"{others}-{number}", [member(f"granted-{number:06}", 1)], 1, tuple)


def _check_parked(fleet: Fleet, user: str, count: int) -> None:
    """Raises if parked runs have started that should have waited."""
    found = fleet.rows(_PARKED, user=user)[0][0]
    if found != count:
        raise RuntimeError(f"{found} runs are parked instead of {count}: others have started")


def _turn(fleet: Fleet, user: str) -> str:
    return str(fleet.folder / f"turn-{user}")


def _ratios(above: list[float], below: list[float]) -> list[float]:
    return [a / b for a, b in zip(above, below, strict=True)]
