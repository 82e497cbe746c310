"""`HeldTokens`: streamed text on its way into the log, held back for a moment so that what follows joins it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace

from shared.event_types import EventType
from shared.events import Attempt, Event

MIN_HOLD_S = 0.02  # from here on tokens go along with a batch that is written anyway
MAX_HOLD_S = 0.04
MAX_JOINED_BYTES = 16 * 1024


@dataclass
class _Joined:
    """The tokens of one agent which become one event: the first one's, with all texts."""

    first: Event
    texts: list[str]
    size: int

    def event(self) -> Event:
        return replace(self.first, data={"text": "".join(self.texts)})


@dataclass
class _Held:
    """What is held of one attempt, by agent, in the order in which they began."""

    since: float
    by_agent: dict[str, _Joined] = field(default_factory=dict)


class HeldTokens:
    """Joins the tokens of each agent of an attempt. Not locked: the writer, whose part it is, does that.

    What is held of an attempt is let go together, and in the order of the ordinals: an event that overtook one with a
    lower ordinal would have the log take that for stored already.
    """

    def __init__(self) -> None:
        self._held: dict[Attempt, _Held] = {}  # oldest first

    def join(self, event: Event) -> bool:
        """Adds a token to those of its agent that are held; False if there are none, or no room."""
        held, size = self._held.get(event.of), _size(event)
        joined = held and held.by_agent.get(event.agent)
        if not joined or size is None or joined.size + size > MAX_JOINED_BYTES:
            return False
        joined.texts.append(event.data["text"])
        joined.size += size
        return True

    def add(self, event: Event) -> list[Event]:
        """Takes an event that does not join; returns what is ready to be written now."""
        held, size = self._held.get(event.of), _size(event)
        if size is None:
            return [*self.release(event.of), event]
        ready = self.release(event.of) if held and event.agent in held.by_agent else []
        held = self._held.setdefault(event.of, _Held(time.monotonic()))
        held.by_agent[event.agent] = _Joined(event, [event.data["text"]], size)
        return ready

    def release(self, attempt: Attempt) -> list[Event]:
        """Lets go of what is held of an attempt."""
        held = self._held.pop(attempt, None)
        return [joined.event() for joined in held.by_agent.values()] if held else []

    def release_older(self, than_s: float) -> list[Event]:
        """Lets go of all attempts' tokens that have been held for so many seconds."""
        until = time.monotonic() - than_s
        old = [attempt for attempt, held in self._held.items() if held.since <= until]
        return [event for attempt in old for event in self.release(attempt)]

    def due_in_s(self) -> float | None:
        """Returns in how many seconds the first of them must go, None if nothing is held."""
        oldest = next(iter(self._held.values()), None)
        return None if oldest is None else max(0.0, oldest.since + MAX_HOLD_S - time.monotonic())


def _size(event: Event) -> int | None:
    """Returns the bytes that a token adds as JSON, None if it is none that can be joined."""
    if event.type != EventType.AGENT_TOKEN or event.data.keys() != {"text"} or not isinstance(event.data["text"], str):
        return None
    size = len(json.dumps(event.data["text"]))
    return size if size <= MAX_JOINED_BYTES else None
