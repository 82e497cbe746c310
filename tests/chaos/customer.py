"""A user of the fleet: keeps some runs under way, cancels some, waits for some, and writes down what it is told."""

from __future__ import annotations

import random
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from shared.states import ENDS
from tests.chaos.client import Client, Listener
from tests.chaos.history import Accepted, History
from tests.chaos.orders import Order, make_order

AHEAD = 2  # so many runs are parked, besides those that may run
ASK_AFTER_S, ASK_EVERY_S = 8.0, 4.0
WAIT_S = 3.0
IDLE_S = 0.05


@dataclass
class _Open:
    """A run of which no end was seen."""

    order: Order
    asked_at: float
    cancel_at: float | None


class Customer:
    """One user's work, in a thread of its own.

    Args:
        runs: how many at least.
        pace_s: between two bursts, on average.
        over: tells whether no more runs are wanted than `runs`.
    """

    def __init__(  # noqa: PLR0913 - what a user is made of
        self,
        user: str,
        client: Client,
        listener: Listener,
        history: History,
        *,
        chance: random.Random,
        runs: int,
        pace_s: float,
        over: Callable[[], bool],
        given_up: Callable[[], bool],
    ) -> None:
        self.listener = listener
        self._user = user
        self._client = client
        self._history = history
        self._chance = chance
        self._runs = runs
        self._pace_s = pace_s
        self._over = over
        self._given_up = given_up
        self._open: dict[str, _Open] = {}
        self._thread = threading.Thread(target=self._work, name=f"customer {user}", daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    @property
    def done(self) -> bool:
        """Whether it has seen all its runs' ends and wants no more, or has given up."""
        return not self._thread.is_alive()

    def close(self) -> None:
        """Ends the thread, which has been told that it is over."""
        self._thread.join(30)
        self._client.close()

    def _work(self) -> None:
        submitted, next_at = 0, time.monotonic() + self._chance.uniform(0, self._pace_s)
        most = self._history.users[self._user].limit + AHEAD
        while not self._given_up():
            wants = submitted < self._runs or not self._over()
            if not wants and not self._open:
                return
            if wants and len(self._open) < most and (self._over() or time.monotonic() >= next_at):
                order = make_order(self._chance)
                self._submit(order)
                submitted += order.steps > 0
                if self._chance.random() < 1 / most:  # the burst is over
                    next_at = time.monotonic() + self._chance.uniform(0.5, 1.5) * self._pace_s * most
            else:
                time.sleep(IDLE_S)
            self._look_after()

    def _submit(self, order: Order) -> None:
        key = uuid.UUID(int=self._chance.getrandbits(128)).hex
        body = {"agent": order.agent, "input": order.input(self._history.users[self._user].canary)}
        answer = self._client.call("POST", "/v1/runs", json=body, headers={"Idempotency-Key": key})
        if answer is None or not answer.is_success:
            return
        run_id, now = str(answer.json()["id"]), time.monotonic()
        doomed = order.agent == "fail"
        self._history.accepted[run_id] = Accepted(self._user, order.agent, key, order.steps, doomed=doomed)
        cancel_at = None if order.cancel_after_s is None else now + order.cancel_after_s
        self._open[run_id] = _Open(order, now, cancel_at)
        if order.again:
            again = self._client.call("POST", "/v1/runs", json=body, headers={"Idempotency-Key": key})
            if again is not None and again.is_success:
                self._history.again.append((key, str(again.json()["id"])))
        if order.wait:
            self._ask(run_id, f"/v1/runs/{run_id}/wait?timeout_s={WAIT_S:g}")

    def _look_after(self) -> None:
        now = time.monotonic()
        for run_id, run in list(self._open.items()):
            if run_id in self.listener.ended:
                del self._open[run_id]
            elif run.cancel_at is not None and now >= run.cancel_at:
                run.cancel_at = None
                self._history.accepted[run_id].cancelled = True
                self._client.call("POST", f"/v1/runs/{run_id}/cancel")
            elif now - run.asked_at > ASK_AFTER_S:
                run.asked_at = now + ASK_EVERY_S - ASK_AFTER_S
                self._ask(run_id, f"/v1/runs/{run_id}")

    def _ask(self, run_id: str, path: str) -> None:
        answer = self._client.call("GET", path)
        if answer is not None and answer.is_success and answer.json()["status"] in ENDS:
            self._history.ends.add((run_id, answer.json()["status"]))
            self._open.pop(run_id, None)
