"""Canaries: 128 random bits that belong to one user, and what it means that somebody saw one.

Everything that can be seen is kept as a `Sight`: who saw it, which way, and the raw bytes. A canary in a sight of
anybody but its owner is a leak, and so is one where nobody's should be: in a log, in a message of the broker.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.fleet.agents_acceptance import CANARY

NOBODY = ""
_DIGEST = re.compile(rb"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class Sight:
    """What somebody saw.

    Args:
        by: the user; `NOBODY` for what belongs to none.
        way: how: `rest`, `websocket`, `database`, …
        at: where exactly.
    """

    by: str
    way: str
    at: str
    content: bytes = field(repr=False)


@dataclass(frozen=True)
class Leak:
    """A canary where it should not be, and the place that its owner had written it to."""

    way: str
    at: str
    by: str
    owner: str
    place: str


class Canaries:
    """Makes canaries and knows whose they are."""

    def __init__(self) -> None:
        self._owners: dict[bytes, tuple[str, str]] = {}  # a canary, and its digest -> user, place
        self._lock = threading.Lock()

    def make(self, user: str, place: str) -> str:
        """Returns a new canary of the user's for one place to write to."""
        canary = f"lwcanary{secrets.token_hex(16)}"
        with self._lock:
            for word in (canary, hashlib.sha256(canary.encode()).hexdigest()):
                self._owners[word.encode()] = (user, place)
        return canary

    def found(self, sight: Sight) -> set[tuple[str, str]]:
        """Returns owner and place of each canary in a sight. Sandboxes report the digests of those that they saw."""
        words = (_DIGEST if sight.way.startswith("sandbox") else CANARY).findall(sight.content)
        return {self._owners[word] for word in words if word in self._owners}

    def places(self, content: bytes) -> set[tuple[str, str]]:
        """Returns owner and place of each canary in a text."""
        return self.found(Sight(NOBODY, "text", "", content))

    def leaks(self, sights: Iterable[Sight]) -> list[Leak]:
        """Returns every canary that somebody else than its owner saw."""
        return [
            Leak(sight.way, sight.at, sight.by, owner, place)
            for sight in sights
            for owner, place in sorted(self.found(sight))
            if owner != sight.by
        ]

    def own(self, sights: Iterable[Sight]) -> dict[tuple[str, str], set[str]]:
        """Returns the places whose canaries their owner saw, by user and way: the proof that we look."""
        seen: dict[tuple[str, str], set[str]] = defaultdict(set)
        for sight in sights:
            seen[sight.by, sight.way] |= {place for owner, place in self.found(sight) if owner == sight.by}
        return seen
