"""`EventWriter`: the one way of a worker process into the event log. Batches by themselves, bounded, in order."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable

import structlog

from shared.errors import UnavailableError
from shared.events import Attempt, Event, StoredEvent, append
from shared.services import Services
from worker import metrics
from worker.held import MIN_HOLD_S, HeldTokens
from worker.turns import TurnQueue

log = structlog.get_logger(__name__)

MAX_QUEUED_PER_RUN = 200  # 64 KiB each at the most
MAX_BATCH = 500
MAX_BATCH_BYTES = 1024 * 1024  # of event data
RETRY_S = 0.5


class EventWriter:
    """Commits what runners hand in, as fast as commits come back: what arrives meanwhile forms the next batch.

    Runs take turns in it, so that a loud one stands in nobody's way.

    Only tokens wait, 40 ms at most, for those that follow: they become one event, see `HeldTokens`. An event gets its
    number when its batch is written, and nothing joins one that is.

    Args:
        services: of this process.
        on_refused: called with the attempt whose events were not stored: it was superseded or has ended.
    """

    def __init__(self, services: Services, on_refused: Callable[[Attempt], None]) -> None:
        self._services = services
        self._on_refused = on_refused
        self._queue = TurnQueue()
        self._tokens = HeldTokens()
        self._queued: Counter[Attempt] = Counter()  # held ones too
        self._writing: list[Event] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="lanewise-writer", daemon=True)

    def start(self) -> None:
        """Starts the writing thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 5) -> None:
        """Writes what is queued, at most `timeout_s` seconds long, and ends."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join(timeout_s)

    def put(self, event: Event, timeout_s: float) -> bool:
        """Queues an event; False if there was no room for `timeout_s` seconds, so that the agent has to wait.

        Each run has its own bound: one that talks a lot waits for itself, not the others for it.
        """
        with self._changed:
            if self._tokens.join(event):
                return True
            if not self._changed.wait_for(lambda: self._queued[event.of] < MAX_QUEUED_PER_RUN, timeout_s):
                return False
            self._enqueue(self._tokens.add(event))
            self._queued[event.of] += 1
            self._changed.notify_all()
            return True

    def take(self, attempt: Attempt, give_up: Callable[[], bool]) -> list[Event]:
        """Takes an attempt's events out of the queue, for the transaction that ends it.

        Waits until those being written are stored, or `give_up` says that it has been long enough. Then those that
        have ordinals are taken too: whichever of the two commits comes second adds nothing of them to the log.
        """
        with self._changed:
            while (writing := self._being_written(attempt)) and not give_up():
                self._changed.wait(RETRY_S)
            taken = [event for event in writing if event.ordinal is not None]
            taken += self._queue.remove(attempt) + self._tokens.release(attempt)
            del self._queued[attempt]
            self._changed.notify_all()
            return taken

    def _being_written(self, attempt: Attempt) -> list[Event]:
        return [event for event in self._writing if event.of == attempt]

    def _run(self) -> None:
        while batch := self._next_batch():
            stored: list[StoredEvent] = []
            try:
                stored = self._write(batch)
            except UnavailableError:
                log.warning("events wait: the database is away", events=len(batch))
                if self._wait_to_retry():
                    continue
                return
            except Exception:  # one batch's failure must not end the writing of all others
                log.exception("a batch of events failed and is written one by one", events=len(batch))
                self._write_singly(batch)
            with self._changed:
                self._writing = []
                self._changed.notify_all()
            self._publish(stored)  # after: no run's end is to wait for a Redis that hangs

    def _next_batch(self) -> list[Event]:
        with self._changed:
            if not self._writing:
                self._await_events()
                self._writing = self._queue.pop(MAX_BATCH, MAX_BATCH_BYTES)
                self._queued -= Counter(event.of for event in self._writing)
                self._changed.notify_all()
            return self._writing

    def _enqueue(self, events: Iterable[Event]) -> None:
        for event in events:
            self._queue.put(event)

    def _await_events(self) -> None:
        """Waits until something is to be written, and adds the tokens that can go along."""
        while not (self._queue or self._stopping) and (wait_s := self._tokens.due_in_s()) != 0:
            self._changed.wait(wait_s)
        self._enqueue(self._tokens.release_older(0 if self._stopping else MIN_HOLD_S))

    def _wait_to_retry(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._stopping, RETRY_S)
            return not self._stopping

    def _write(self, batch: list[Event]) -> list[StoredEvent]:
        stored, refused = append(self._services.database.once_for_all(), batch)
        metrics.EVENT_BATCHES.inc()
        metrics.EVENTS_WRITTEN.inc(len(stored))
        for attempt in refused:
            self._on_refused(attempt)
        return stored

    def _write_singly(self, batch: list[Event]) -> None:
        for event in batch:
            try:
                while not self._written(event):
                    if not self._wait_to_retry():
                        return
            except Exception:  # this one is what the database refuses
                log.exception("an event is refused", run_id=event.run_id, type=event.type)

    def _written(self, event: Event) -> bool:
        try:
            stored = self._write([event])
        except UnavailableError:
            return False
        self._publish(stored)
        return True

    def _publish(self, stored: list[StoredEvent]) -> None:
        try:
            self._services.publish(stored)
        except Exception:  # they are in the log; without this thread all runs here would hang
            log.exception("events are not published", events=len(stored))
