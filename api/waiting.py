"""Waiting for the end of a run: told by the process's event subscription, not by asking Postgres again and again."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

from api.gateway.channel import Delivery
from api.places import Places
from api.state import Api
from shared.event_types import LAST_TYPES
from shared.states import ExecutionState

LOOK_AGAIN_S = 5.0
MAX_WAITERS = 2000
MAX_WAITERS_PER_USER = 100
_places = Places(MAX_WAITERS_PER_USER, MAX_WAITERS, "waiting requests")


class Waiter:
    """Wakes at the end of a run, and when events were lost."""

    def __init__(self, run_id: str) -> None:
        self._run_id = run_id
        self.woken = threading.Event()

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        """See `channel.Listener`."""
        if any(item.view["run_id"] == self._run_id and item.view["type"] in LAST_TYPES for item in deliveries):
            self.woken.set()

    def lose(self) -> None:
        """See `channel.Listener`."""
        self.woken.set()


def wait_for_end(state: Api, user_id: str, run_id: str, timeout_s: float) -> dict[str, Any]:
    """Returns the public form of a run as soon as it has ended, else as it is after `timeout_s` seconds.

    Raises:
        NotFoundError: the user has no such run.
        QuotaError: too many requests wait in this process.
    """
    deadline = time.monotonic() + timeout_s
    view = state.runs.view(user_id, run_id)
    if _has_ended(view) or timeout_s <= 0:
        return view
    waiter = Waiter(run_id)
    with _places.take(user_id), state.metrics.waiting.track_inprogress(), state.hub.channel(user_id) as channel:
        channel.add(waiter)
        try:
            return _wait(state, user_id, run_id, waiter, deadline)
        finally:
            channel.remove(waiter)


def _wait(state: Api, user_id: str, run_id: str, waiter: Waiter, deadline: float) -> dict[str, Any]:
    while True:
        waiter.woken.clear()
        view = state.runs.view(user_id, run_id)
        left = deadline - time.monotonic()
        if _has_ended(view) or left <= 0 or state.hub.released:
            return view
        waiter.woken.wait(min(left, LOOK_AGAIN_S))


def _has_ended(view: dict[str, Any]) -> bool:
    return ExecutionState(view["status"]).is_end
