"""Background loops: one way to start, to stop, and to call a single tick (which is what tests do)."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import ClassVar

import structlog

from shared.errors import UnavailableError

log = structlog.get_logger(__name__)


class Loop(ABC):
    """A thread that calls `tick` every `interval_s` seconds until it is stopped. A tick that raises is logged.

    Args:
        interval_s: seconds between the end of one tick and the start of the next; also the wait after an error.
    """

    name: ClassVar[str]

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def tick(self) -> None:
        """Does the work once."""

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name=f"lanewise-{self.name}", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float = 5) -> None:
        """Asks the loop to end and waits for its present tick, at most `timeout_s` seconds."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.tick()
            except UnavailableError as error:
                log.warning("a background tick has to wait", loop=self.name, error=error.message)
            except Exception:  # the loop must outlive whatever a store or a row did to one tick
                log.exception("a background tick failed", loop=self.name)
            self._stopping.wait(self._interval_s)
