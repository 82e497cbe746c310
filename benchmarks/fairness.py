"""What one user's flood does to another user, and how evenly many users get on; beside the usual way with bare Celery.

The usual way is a counter per user in Redis: a task that finds it full is sent again, to try a second later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from statistics import mean, median
from typing import Any

from benchmarks.bare_worker import bare_worker
from benchmarks.fleet import Fleet, Lab, put_load
from benchmarks.report import Figure
from lanewise.process import wait_until

SLOTS = 4
LIMIT = 3
FLOOD = 2000
FLOOD_RUN_S = 0.2
CROWD_RUN_S = 0.05
CROWD_S = 90.0
QUIET_S = 10.0
SAMPLES = 10


def measure(lab: Lab) -> list[Figure]:
    """Measures on a fleet of four slots, where a user may have three runs in progress. Takes about three minutes.

    The neighbour: A submits a flood, then B one run of the same length, again and again while the flood lasts. One slot
    is free for B. The flood is not waited for: when B has been measured, what is left of it is taken away.

    The crowd: users submit one after the other, which is the unfairest order, while all slots are occupied; then those
    are freed. Jain's index of the runs that each user has finished is taken at each tenth of the work, without the
    first, which says more about whole numbers than about fairness, and without the last, where all have finished.
    A user's three runs go side by side, so the users get on in rounds of 150 runs, and between rounds the index dips.
    """
    with Fleet(SLOTS, limit=LIMIT) as fleet:
        return [*_neighbour(fleet, quick=lab.quick), *_crowd(fleet, quick=lab.quick)]


def jain(shares: Sequence[float]) -> float:
    """Returns Jain's index of what each one got: 1 if all got the same, 1 / n if one of n got everything."""
    return sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares))


def jain_over_time(finished: Sequence[str], users: int) -> list[float]:
    """Returns the index after two tenths of the work, after three, and so on up to nine.

    Args:
        finished: the user of each run, in the order of their ends.
        users: how many there are; one who has finished nothing has a share, too: 0.
    """
    tenths = [Counter(finished[: len(finished) * tenth // SAMPLES]) for tenth in range(2, SAMPLES)]
    return [jain([*done.values(), *[0] * (users - len(done))]) for done in tenths]


def _neighbour(fleet: Fleet, *, quick: bool) -> list[Figure]:
    rounds, flood, count = (1, 300, 5) if quick else (2, FLOOD, 10)
    bare_count = 2 if quick else 3
    ours: dict[str, list[float]] = {"alone": [], "beside": []}
    bare: dict[str, list[float]] = {"alone": [], "beside": []}
    for number in range(rounds):
        ours["alone"].append(_b_takes_s(fleet, count))
        _submit(fleet, [f"flood-{number}"], flood, "bench_nap", {"seconds": FLOOD_RUN_S})
        ours["beside"].append(_b_takes_s(fleet, count))
        _drop_queued(fleet, f"flood-{number}")
        with bare_worker(fleet, SLOTS) as environment:
            load = {"flood": flood, "limit": LIMIT, "seconds": FLOOD_RUN_S, "count": bare_count}
            seen = put_load("bare_neighbour", environment, **load)["result"]
        for case, seconds in seen.items():
            bare[case].append(median(seconds))
    ours["alone"].append(_b_takes_s(fleet, count))
    around = [mean(pair) for pair in pairwise(ours["alone"])]
    return [
        Figure("B's run of 0.2 s, alone", [s * 1e3 for s in ours["alone"]], "ms"),
        Figure(f"  beside a flood of {flood:,} of A's", [s * 1e3 for s in ours["beside"]], "ms"),
        Figure("  beside / alone, before and after", _ratios(ours["beside"], around), "times", "<= 1.2"),
        Figure("bare Celery: B's task of 0.2 s, alone", [s * 1e3 for s in bare["alone"]], "ms"),
        Figure(f"  beside a flood of {flood:,} of A's", [s * 1e3 for s in bare["beside"]], "ms"),
        Figure("  beside / alone, before", _ratios(bare["beside"], bare["alone"]), "times"),
    ]


def _crowd(fleet: Fleet, *, quick: bool) -> list[Figure]:
    users, each = (10, 20) if quick else (50, 40)
    crowd = [f"crowd-{number}" for number in range(users)]
    plugs = [str(fleet.folder / f"plug-{number}") for number in range(SLOTS)]
    for number, plug in enumerate(plugs):
        _submit(fleet, [f"plug-{number}"], 1, "bench_turn", {"turn": plug})
    _submit(fleet, crowd, each, "bench_nap", {"seconds": CROWD_RUN_S})
    for plug in plugs:
        (fleet.folder / plug).touch()
    query = (
        "SELECT user_id FROM lanewise.runs WHERE user_id LIKE 'crowd-%' AND status = 'completed' ORDER BY finished_at"
    )
    if not wait_until(lambda: len(fleet.rows(query)) == users * each, CROWD_S):
        raise TimeoutError("the crowd's runs were not done in time")
    ours = jain_over_time([row.user_id for row in fleet.rows(query)], users)
    with bare_worker(fleet, SLOTS) as environment:
        load = {"slots": SLOTS, "users": users, "each": each, "seconds": CROWD_RUN_S, "limit": LIMIT}
        bare = jain_over_time(put_load("bare_crowd", environment, **load)["result"], users)
    name = f"Jain's index over time, {users} users x {each} runs"
    return [
        Figure(name, ours, "", ">= 0.98"),
        Figure(f"bare Celery: {name}", bare, ""),
    ]


def _b_takes_s(fleet: Fleet, count: int) -> float:
    """Returns the median time of B's run, from its submission to the event that ends it."""
    nap = {"seconds": FLOOD_RUN_S}

    def take(times: int) -> list[dict[str, float]]:
        load = {"url": fleet.url, "token": fleet.token("b"), "count": times, "agent": "bench_nap", "run_input": nap}
        return list(put_load("latency", None, **load)["result"])

    take(2)  # warm
    return median(run["run_completed"] for run in take(count))


def _submit(fleet: Fleet, users: list[str], count: int, agent: str, run_input: dict[str, Any]) -> None:
    tokens = [fleet.token(user) for user in users]
    put_load("submissions", url=fleet.url, tokens=tokens, count=count, agent=agent, run_input=run_input)


def _drop_queued(fleet: Fleet, user: str) -> None:
    """Takes away what is queued of a user's, and waits for the end of what is running."""

    def none_left() -> bool:
        fleet.rows("DELETE FROM lanewise.runs WHERE user_id = :user AND status = 'queued'", user=user)
        query = "SELECT FROM lanewise.runs WHERE user_id = :user AND status = 'running'"
        return not fleet.rows(query, user=user)

    if not wait_until(none_left, QUIET_S):
        raise TimeoutError("the flood did not end in time")


def _ratios(beside: list[float], alone: list[float]) -> list[float]:
    return [one / other for one, other in zip(beside, alone, strict=True)]
