"""`ToolThreads`: the threads that plain tools run in. Starting one for each call would cost more than the call."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

JOIN_S = 1.0

Work = tuple[Callable[[], Any], Callable[[Any], None]]


class ToolThreads:
    """Daemon threads that are used again: as many as there are calls at once, and none before the first call.

    Not an executor's: the end of an event loop, or of the interpreter, would wait for one that never comes back.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._idle: list[tuple[threading.Thread, SimpleQueue[Work | None]]] = []
        self._closed = False

    def run(self, work: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Has a thread call `work`, which must not raise, and hand what it returns to `done`.

        Raises:
            RuntimeError: no further thread can be started.
        """
        with self._lock:
            queue = self._idle.pop()[1] if self._idle else None
        if queue is None:
            queue = SimpleQueue()
            threading.Thread(target=self._serve, args=(queue,), name="lanewise-tool", daemon=True).start()
        queue.put((work, done))

    def close(self) -> None:
        """Ends the threads that have nothing to do; the others end with what they do."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for _, queue in idle:
            queue.put(None)
        for thread, _ in idle:
            thread.join(JOIN_S)

    def _serve(self, queue: SimpleQueue[Work | None]) -> None:
        while (item := queue.get()) is not None:
            work, done = item
            outcome = work()
            with self._lock:
                closed = self._closed
                if not closed:  # before whoever waits can know and call again, which would start another thread
                    self._idle.append((threading.current_thread(), queue))
            done(outcome)
            del item, work, done, outcome  # while it is idle it holds nothing of a call
            if closed:
                return
