"""How many readings of the log go on at once: a rush of clients that come back must leave connections for REST."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import UnavailableError

PLACES = 8  # of the 30 connections that a process may have
PATIENCE_S = 8.0  # in all, up to the welcome: our clients give up after 10 s


class Gate:
    """Lets so many in at once; who comes next waits, and after a while is told to try again.

    Args:
        places: how many.
    """

    def __init__(self, places: int = PLACES) -> None:
        self._places = threading.BoundedSemaphore(places)

    @contextmanager
    def enter(self, patience_s: float = PATIENCE_S) -> Iterator[None]:
        """Takes a place for the time of the block.

        Raises:
            UnavailableError: none became free for so long.
        """
        if not self._places.acquire(timeout=max(0.0, patience_s)):
            raise UnavailableError("too many clients come back at once; try again shortly", retry_after_s=2)
        try:
            yield
        finally:
            self._places.release()
