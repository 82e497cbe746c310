"""`Breaker`: a store that hangs is waited for once, not once for each of many calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

PAUSE_S = 2.0  # after a call that hung, until one asks again
HUNG_S = 0.5  # a failure that came sooner cost nobody much, and the next call may well succeed


class Breaker:
    """Has calls fail at once for `PAUSE_S` seconds after one that failed slowly; then one call tries again.

    Args:
        refusal: makes the error of a call that is not tried; the callers know it from the store itself.
    """

    def __init__(self, refusal: Callable[[], Exception]) -> None:
        self._refusal = refusal
        self._lock = threading.Lock()
        self._ask_again_at = 0.0

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Holds one call of the store."""
        started = time.monotonic()
        with self._lock:
            if started < self._ask_again_at:
                raise self._refusal()
            if self._ask_again_at:
                self._ask_again_at = started + PAUSE_S  # the others need not wait for the one that asks
        try:
            yield
        except Exception:
            now = time.monotonic()
            self._ask_again_at = now + PAUSE_S if now - started > HUNG_S else 0.0
            raise
        self._ask_again_at = 0.0
