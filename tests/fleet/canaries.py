"""Canaries: 128 random bits that belong to one user, and what it means that somebody saw one.

Everything that can be seen is looked through at once and not kept: who saw it, which way, and the raw bytes. A canary
that anybody but its owner sees is a leak, and so is one where nobody's should be: in a log, in a message of the broker.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
from collections import Counter
from dataclasses import dataclass

from tests.fleet.agents_acceptance import CANARY

NOBODY = ""
MOST_KEPT = 20  # leaks of one way that are told; all are counted
_DIGEST = re.compile(rb"\b[0-9a-f]{64}\b")


@dataclass(frozen=True)
class Leak:
    """A canary where it should not be, and the place that its owner had written it to.

    Args:
        way: how it was seen: `rest`, `websocket live`, `database`, …
        at: where exactly.
        by: the user who saw it; `NOBODY` for what belongs to none.
    """

    way: str
    at: str
    by: str
    owner: str
    place: str


class Canaries:
    """Makes canaries, knows whose they are, and notes who sees them. Safe to use from any thread.

    Attributes:
        leaks: the first ones of each way.
        leaked: how many there were, by way.
        own: how often a user saw an own one, by user, way and place: the proof that we look.
    """

    def __init__(self) -> None:
        self._owners: dict[bytes, tuple[str, str]] = {}  # a canary, and its digest -> user, place
        self._lock = threading.Lock()
        self.leaks: list[Leak] = []
        self.leaked: Counter[str] = Counter()
        self.own: Counter[tuple[str, str, str]] = Counter()

    def make(self, user: str, place: str) -> str:
        """Returns a new canary of the user's for one place to write to."""
        canary = f"lwcanary{secrets.token_hex(16)}"
        with self._lock:
            for word in (canary, hashlib.sha256(canary.encode()).hexdigest()):
                self._owners[word.encode()] = (user, place)
        return canary

    @property
    def made(self) -> int:
        """How many there are."""
        return len(self._owners) // 2

    def see(self, by: str, way: str, at: str, content: bytes | str) -> None:
        """Notes whose canaries somebody saw. Sandboxes report the digests of those that they saw."""
        raw = content.encode(errors="replace") if isinstance(content, str) else content
        for owner, place in sorted(self.places(raw, _DIGEST if way.startswith("sandbox") else CANARY)):
            with self._lock:
                if owner == by:
                    self.own[by, way, place] += 1
                else:
                    self._note(Leak(way, at, by, owner, place))

    def note(self, leak: Leak) -> None:
        """Notes what is a leak without a canary."""
        with self._lock:
            self._note(leak)

    def places(self, content: bytes, words: re.Pattern[bytes] = CANARY) -> set[tuple[str, str]]:
        """Returns owner and place of each canary in a text."""
        return {self._owners[word] for word in words.findall(content) if word in self._owners}

    def unseen(self, user: str, way: str, places: set[str]) -> set[str]:
        """Returns the places whose canaries their owner should have seen that way and did not."""
        with self._lock:
            return {place for place in places if not self.own[user, way, place]}

    def _note(self, leak: Leak) -> None:
        self.leaked[leak.way] += 1
        if self.leaked[leak.way] <= MOST_KEPT:
            self.leaks.append(leak)
