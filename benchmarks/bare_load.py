"""The load on bare Celery; a part of `benchmarks.load`, which sees to the broker's address in the environment."""

from __future__ import annotations

import time
from collections.abc import Callable
from threading import Thread
from typing import Any

from benchmarks.bare_celery import GATE, KEY, counter, nap, noop, plug

WAIT_S = 80.0
ONE_S = 30.0
POLL_S = 0.005


def bare(count: int, threads: int) -> dict[str, float]:
    """Sends tasks that do nothing, `count` from some threads, and waits until Redis has counted them all."""

    def send() -> None:
        for _ in range(count // threads):
            noop.delay()

    counter.delete(KEY)
    sending = [Thread(target=send) for _ in range(threads)]
    began = time.perf_counter()
    for thread in sending:
        thread.start()
    for thread in sending:
        thread.join()
    _wait_until(lambda: int(counter.get(KEY) or 0) >= count // threads * threads)
    return {"seconds": time.perf_counter() - began}


def bare_neighbour(flood: int, limit: int, seconds: float, count: int) -> dict[str, list[float]]:
    """One user's tasks, one after the other, alone and then beside a flood of another user's.

    Args:
        flood: tasks that the other user sends first.
        limit: of each user.
        seconds: that a task takes.
        count: tasks that are measured in each case.

    Returns:
        seconds from sending to the end of each, `alone` and `beside`.
    """

    def one() -> float:
        began = time.perf_counter()
        nap.delay("b", seconds, limit, "bench:ended:b")
        if counter.blpop(["bench:ended:b"], timeout=ONE_S) is None:
            raise TimeoutError("the task was not done in time")
        return time.perf_counter() - began

    one()  # warm
    alone = [one() for _ in range(count)]
    for _ in range(flood):
        nap.delay("a", seconds, limit, "bench:ended:a")
    return {"alone": alone, "beside": [one() for _ in range(count)]}


def bare_crowd(slots: int, users: int, each: int, seconds: float, limit: int) -> list[str]:
    """Many users send their tasks, one user after the other, while all slots are occupied; then those are freed.

    Returns:
        the user of each task in the order of their ends.
    """
    ended = "bench:ended:crowd"
    for _ in range(slots):
        plug.delay()
    for user in range(users):
        for _ in range(each):
            nap.delay(f"user-{user}", seconds, limit, ended)
    counter.rpush(GATE, *range(slots))
    _wait_until(lambda: int(counter.llen(ended)) >= users * each)
    return list(map(str, counter.lrange(ended, 0, -1)))


def _wait_until(done: Callable[[], bool]) -> None:
    deadline = time.perf_counter() + WAIT_S
    while not done():
        if time.perf_counter() > deadline:
            raise TimeoutError("the tasks were not done in time")
        time.sleep(POLL_S)


LOADS: dict[str, Callable[..., Any]] = {"bare": bare, "bare_neighbour": bare_neighbour, "bare_crowd": bare_crowd}
