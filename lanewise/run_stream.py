"""The events of one run: its history, then the live stream."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lanewise.endpoint import Endpoint
from lanewise.errors import GapError
from lanewise.stream import Event, Stream
from shared.event_types import LAST_TYPES


class RunStream(Stream):
    """The events of one run: those that were, then those to come, and an end after the last one.

    Args:
        run_id: the run.
        history: returns the run's events with `run_seq` above its argument.
        endpoint: the service.
        after: leave out events up to this `seq`; None: start with the run's first.
    """

    def __init__(
        self, run_id: str, history: Callable[[int], Iterable[Event]], endpoint: Endpoint, after: int | None
    ) -> None:
        super().__init__(endpoint, None)  # what was comes from the history, so the connection starts at the head
        self._run_id = run_id
        self._history = history
        self._skip = after or 0
        self._run_seq = 0
        self._past: Iterator[Event] | None = None  # None: to be read, from where we are

    def __next__(self) -> Event:
        while not self._closed.is_set():
            event = self._next_past() or self._next_live()
            if event is None or event["run_id"] != self._run_id or event["run_seq"] <= self._run_seq:
                continue
            self._run_seq = event["run_seq"]
            if event["type"] in LAST_TYPES:
                self.close()
            if event["seq"] > self._skip:
                return event
        raise StopIteration

    def _next_past(self) -> Event | None:
        """Returns the next event of the history, which is read page by page."""
        if self._past is None:
            self.open()  # first, so that nothing falls between the history and the stream
            self._past = iter(self._history(self._run_seq))
        try:
            return next(self._past, None)
        except BaseException:
            self._past = None
            raise

    def _next_live(self) -> Event | None:
        try:
            return super().__next__()
        except GapError:  # of the stream; the run's own events are still there
            self._past = None
            return None
