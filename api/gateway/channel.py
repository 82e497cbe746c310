"""One user's event stream in this process: put in order once, then handed to everybody who listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from functools import cached_property
from typing import Any, Protocol

import structlog

from api.gateway.gate import Gate
from api.gateway.protocol import encode, portions
from api.gateway.ring import Ring

MAX_EARLY = 256

log = structlog.get_logger(__name__)


class Delivery:
    """An event on its way to listeners; its frame is made once, for all sockets.

    Args:
        view: the event's public form.
    """

    def __init__(self, view: dict[str, Any]) -> None:
        self.view = view
        self.seq: int = view["seq"]

    @cached_property
    def frame(self) -> bytes:
        """The WebSocket frame."""
        return encode(self.view)


class Batch(list[Delivery]):
    """Events that follow one another, at least one."""

    @cached_property
    def portions(self) -> list[tuple[int, bytes]]:
        """The frames of all of them, put together once for all sockets; see `protocol.portions`."""
        return list(portions(delivery.frame for delivery in self))


class Listener(Protocol):
    """Who listens to a channel. Both calls must return at once."""

    def offer(self, deliveries: Batch) -> None:
        """Takes the next events, without a gap to those before."""

    def lose(self) -> None:
        """Takes notice that events were lost for good, or that the process is about to end."""


class Channel:
    """Delivers `last + 1`, drops what is lower, and says so when what comes is higher.

    Args:
        user_id: whose events.
        name: of the channel in Redis.
    """

    def __init__(self, user_id: str, name: str) -> None:
        self.user_id = user_id
        self.name = name
        self.subscribed = threading.Event()
        self.placing = Gate(1)  # one finds where it begins
        self.recalling = Gate(1)  # one reads what all who come back need
        self.holders = 0  # guarded by the hub
        self.left_at = 0.0  # when the last holder left, monotonic; guarded by the hub
        self._lock = threading.Lock()
        self._listeners: set[Listener] = set()
        self._ring = Ring()
        self._last: int | None = None
        self._wanted = 0
        self._early: dict[int, dict[str, Any]] = {}  # by seq: what came before something that is still missing
        self._repairing = False

    @property
    def last(self) -> int | None:
        """The `seq` of the last event delivered; None: not placed yet."""
        return self._last

    @property
    def wanted(self) -> int:
        """The highest `seq` that is known to be in the log."""
        return self._wanted

    def idle_s(self) -> float:
        """Returns the seconds since the last holder left, 0 while there is one."""
        return 0.0 if self.holders else time.monotonic() - self.left_at

    def add(self, listener: Listener) -> int:
        """Adds a listener; returns the `seq` after which it will be offered everything."""
        with self._lock:
            self._listeners.add(listener)
            return self._last or 0

    def resume(self, listener: Listener, after: int) -> list[bytes] | None:
        """Adds a listener that has everything up to `after`, if the frames from there are at hand.

        Returns:
            them; what follows will be offered. None: they are not, and the listener was not added.
        """
        with self._lock:
            if self._last is None or not self._last - len(self._ring) <= after <= self._last:
                return None
            self._listeners.add(listener)
            return self._ring.newest(self._last - after)

    def missing(self, after: int) -> int:
        """Returns how many events after `after` precede those at hand; 0 too if there is no such place."""
        with self._lock:
            return max(0, (self._last or 0) - len(self._ring) - after)

    def remember(self, frames: Sequence[bytes], end: int) -> None:
        """Keeps the frames up to `end` for who comes back next, if they precede those at hand and there is room."""
        with self._lock:
            if self._last is not None and end == self._last - len(self._ring):
                self._ring.prepend(frames)

    def trim(self, limit: int) -> None:
        """Keeps at most `limit` bytes of frames at hand, and no old ones."""
        with self._lock:
            self._ring.trim(limit)

    def rewind(self, last: int, head: int) -> None:
        """Begins again at `head` if Postgres has less than what was delivered, `last`: it is back at a backup."""
        with self._lock:
            if self._last == last and head < last and not self._repairing:
                self._last = self._wanted = head
                self._early.clear()
                self._ring.clear()
                self._tell_lost()

    def remove(self, listener: Listener) -> None:
        """Takes a listener away."""
        with self._lock:
            self._listeners.discard(listener)

    def place(self, position: int) -> bool:
        """Sets where the stream goes on; False if events are missing before those that came meanwhile."""
        with self._lock:
            self._last = position
            return self._go_on()

    def is_behind(self, head: int) -> bool:
        """True if the stream in Postgres, whose head this is, has events that were not delivered."""
        with self._lock:
            self._wanted = max(self._wanted, head)
            return self._last is not None and head > self._last

    def receive(self, views: Sequence[dict[str, Any]]) -> bool:
        """Takes published events; False if some before them are missing.

        What comes early is kept: several processes publish the events of one user, so they overtake one another all the
        time, and what is missing is on its way.
        """
        with self._lock:
            due = (self._last or 0) + 1
            for view in views:
                if view["seq"] == due or (view["seq"] > due and len(self._early) < MAX_EARLY):
                    self._early[view["seq"]] = view
                due += view["seq"] == due
                self._wanted = max(self._wanted, view["seq"])
            return self._last is None or self._go_on()

    def begin_repair(self) -> bool:
        """Returns False if one is under way, or there is nothing to repair yet."""
        with self._lock:
            if self._repairing or self._last is None:
                return False
            self._repairing = True
            return True

    def end_repair_if_whole(self) -> bool:
        """Calls a repair off if what was missing has come by itself."""
        with self._lock:
            whole = (self._last or 0) >= self._wanted
            self._repairing = self._repairing and not whole
            return whole

    def fill(self, views: Sequence[dict[str, Any]], wanted: int) -> bool:
        """Takes what was read from the log after `last`; True when that was all.

        Args:
            views: none if the log ends there.
            wanted: the property before the read.
        """
        with self._lock:
            while not self._deliver(views):  # the rest was trimmed
                self._last = next(view["seq"] for view in views if view["seq"] > (self._last or 0)) - 1
                self._ring.clear()
                self._tell_lost()
            self._go_on()
            if (self._last or 0) < self._wanted and (views or self._wanted > wanted):
                return False
            self._wanted = self._last or 0  # higher than the log: not from us
            self._early.clear()
            self._repairing = False
            return True

    def end_repair(self) -> None:
        """Gives a repair up; the next comparison of heads begins it again."""
        with self._lock:
            self._repairing = False

    def lose(self) -> None:
        """Tells every listener that it cannot go on."""
        with self._lock:
            self._tell_lost()

    def _go_on(self) -> bool:
        """Delivers what came early and is due now; True if nothing is missing."""
        due: list[dict[str, Any]] = []
        while (view := self._early.pop((self._last or 0) + 1 + len(due), None)) is not None:
            due.append(view)
        self._deliver(due)
        if (self._last or 0) < self._wanted:
            return False
        self._early.clear()
        return True

    def _deliver(self, views: Sequence[dict[str, Any]]) -> bool:
        expected = (self._last or 0) + 1
        fresh = Batch()
        for view in views:
            if view["seq"] == expected + len(fresh):
                fresh.append(Delivery(view))
            elif view["seq"] > expected:
                break
        if fresh:
            self._last = fresh[-1].seq
            self._ring.append(delivery.frame for delivery in fresh)
            for listener in self._listeners:
                try:
                    listener.offer(fresh)
                except Exception:  # the others, and the other channels, have nothing to do with it
                    log.exception("a listener failed")
                    listener.lose()
        return not views or (self._last or 0) >= views[-1]["seq"]

    def _tell_lost(self) -> None:
        for listener in self._listeners:
            listener.lose()
