"""`Alarm`: admits a user's runs when the pause before a next attempt is over."""

from __future__ import annotations

import heapq
import threading
import time
from collections.abc import Callable

import structlog

from shared.errors import UnavailableError

log = structlog.get_logger(__name__)

MOST_SET = 10_000  # beyond that, as after the end of this process, the leader's sweep admits them a little later


class Alarm:
    """One thread that waits for the earliest of many moments.

    Args:
        ring: called with the user when it is time.
    """

    def __init__(self, ring: Callable[[str], object]) -> None:
        self._ring = ring
        self._moments: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="lanewise-alarm", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5) -> None:
        """Forgets all moments and ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def set(self, user_id: str, after_s: float) -> None:
        """Has the user's runs be admitted in so many seconds."""
        with self._changed:
            if len(self._moments) < MOST_SET:
                heapq.heappush(self._moments, (time.monotonic() + after_s, user_id))
                self._changed.notify_all()

    def _run(self) -> None:
        while (user_id := self._next()) is not None:
            try:
                self._ring(user_id)
            except UnavailableError as error:
                log.warning("an attempt is left to the sweep", error=error.message)
            except Exception:  # the next users' attempts are due all the same
                log.exception("an attempt is left to the sweep")

    def _next(self) -> str | None:
        with self._changed:
            while not self._stopping:
                pause_s = self._moments[0][0] - time.monotonic() if self._moments else None
                if pause_s is not None and pause_s <= 0:
                    return heapq.heappop(self._moments)[1]
                self._changed.wait(pause_s)
            return None
