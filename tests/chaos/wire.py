"""Just enough of Postgres' protocol to know when a commit has been made whose answer can still get lost."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

# The driver sends simple queries only, each in one go, and the next one after the answer to the last.
QUERY, ERROR, READY = b"Q", b"E", b"Z"
IDLE = b"I"
HEADER = 5  # a type and a length
_WRITES = re.compile(
    rb"\b(accept_run|claim_run|end_run|append_events|record_step|record_own_step|save_state|INSERT INTO \w+|"
    rb"UPDATE (?!SET\b)\w+|DELETE FROM \w+)"
)
_BEGIN = re.compile(rb"BEGIN\b")
_COMMIT = re.compile(rb"COMMIT\b")


@dataclass
class Transaction:
    """What one connection is about to commit.

    Attributes:
        writes: names of what it writes.
    """

    writes: list[str] = field(default_factory=list)
    _open: bool = False

    def hear(self, data: bytes) -> bool:
        """Takes what the client sends; tells whether its answer is that to a commit of something written."""
        if data[:1] != QUERY:
            return False
        query = data[HEADER:]
        if _BEGIN.match(query):
            self._open = True
        if not self._open or _BEGIN.match(query):
            self.writes = []
        self.writes += [found.decode() for found in _WRITES.findall(query)]
        if _COMMIT.match(query):
            self._open = False
        elif query.startswith(b"ROLLBACK"):
            self._open, self.writes = False, []
        return bool(self.writes) and not self._open


@dataclass
class Reply:
    """The server's answer to one query, as it comes in."""

    data: bytearray = field(default_factory=bytearray)
    _at: int = 0
    failed: bool = False
    done: bool = False

    def take(self, data: bytes) -> None:
        """Adds what the server has sent."""
        self.data += data
        while not self.done and len(self.data) >= self._at + HEADER:
            length = int.from_bytes(self.data[self._at + 1 : self._at + HEADER], "big") + 1
            if len(self.data) < self._at + length:
                return
            kind = bytes(self.data[self._at : self._at + 1])
            self.failed |= kind == ERROR
            self.done = kind == READY
            if self.done:
                self.failed |= bytes(self.data[self._at + HEADER : self._at + length]) != IDLE
            self._at += length
