"""`TurnQueue`: the events of many attempts on their way into the log, each attempt's in order, taken in turns."""

from __future__ import annotations

from collections import deque

from shared.events import Attempt, Event

TURN_BYTES = 64 * 1024  # of event data: one event always fits


class TurnQueue:
    """Goes round the attempts, so that one with much to tell is not in front of all others. Not locked."""

    def __init__(self) -> None:
        self._by_attempt: dict[Attempt, deque[Event]] = {}  # whose turn it is first; none is empty

    def __len__(self) -> int:
        return sum(map(len, self._by_attempt.values()))

    def put(self, event: Event) -> None:
        """Adds an event behind those of its attempt."""
        self._by_attempt.setdefault(event.of, deque()).append(event)

    def remove(self, attempt: Attempt) -> list[Event]:
        """Takes all of an attempt out."""
        return list(self._by_attempt.pop(attempt, ()))

    def pop(self, most: int, most_bytes: int) -> list[Event]:
        """Takes what comes next.

        Args:
            most: events.
            most_bytes: of their data; a single event may have more.
        """
        batch: list[Event] = []
        room = most_bytes
        while self._by_attempt and len(batch) < most:
            attempt, events = next(iter(self._by_attempt.items()))
            if batch and events[0].size > room:
                break  # its turn is the first of the next batch
            del self._by_attempt[attempt]
            turn = TURN_BYTES
            while events and len(batch) < most and (turn == TURN_BYTES or events[0].size <= min(turn, room)):
                batch.append(events.popleft())
                turn -= batch[-1].size
                room -= batch[-1].size
            if events:
                self._by_attempt[attempt] = events  # behind all others
        return batch
