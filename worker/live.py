"""`LiveRun`: a run that this worker owns now, and the orders that other threads may give it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from shared.models import Run
from shared.outcomes import Cancelled, Lost, Outcome, TimedOut


class LiveRun:
    """What runner, heartbeat, control channel and drain share about one run. Orders come from any thread.

    Args:
        run: as claimed.
        granted: tools that its user had a grant for at the claim.
    """

    def __init__(self, run: Run, granted: Sequence[str] = ()) -> None:
        self.run = run
        self.granted = tuple(granted)
        self.remaining_s = run.time_limit_s - run.ran_s
        self.deadline = time.monotonic() + self.remaining_s
        self.wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._lock = threading.Lock()
        self._closed = False
        self.asked_to_end: Outcome | None = None  # the agent may still tidy up, for a while
        self.must_stop: Lost | None = None  # at once
        self.superseded = False

    def cancel(self) -> None:
        """The user asked to cancel."""
        self._ask(Cancelled())

    def time_out(self) -> None:
        """The time limit is reached."""
        self._ask(TimedOut(self.run.time_limit_s))

    def stop(self, outcome: Lost) -> None:
        """The attempt is over, whatever the agent does; the run goes on elsewhere."""
        self.must_stop = self.must_stop or outcome
        self.wake()

    def supersede(self) -> None:
        """The run is somebody else's already: stop, and write nothing."""
        self.superseded = True
        self.stop(Lost("superseded", "another attempt has taken over", counted=False))

    def wake(self) -> None:
        """Has the runner look at its orders."""
        with self._lock:
            if not self._closed:
                os.eventfd_write(self.wake_fd, 1)

    def close(self) -> None:
        """Ends the use of the wake descriptor."""
        with self._lock:
            self._closed = True
            os.close(self.wake_fd)

    def _ask(self, outcome: Outcome) -> None:
        if self.asked_to_end is None:
            self.asked_to_end = outcome
            self.wake()
