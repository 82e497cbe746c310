"""What became of the inputs: how many of each kind, and how each ended."""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

MOST_FINDINGS = 20
ACCEPTED = "accepted"


class Tally:
    """Counts inputs by their kind and end, and keeps what should not have been.

    Args:
        tell: is told when the inputs of a kind are through.
    """

    def __init__(self, tell: Callable[[str], None] = lambda _: None) -> None:
        self._tell = tell
        self.ends: dict[str, Counter[str]] = defaultdict(Counter)
        self.findings: list[str] = []
        self._found: Counter[str] = Counter()

    def count(self, kind: str, end: str, number: int = 1) -> None:
        """Counts inputs of a kind that ended in some way: `ACCEPTED`, or how it was refused."""
        self.ends[kind][end] += number

    def find(self, kind: str, problem: str, sent: object) -> None:
        """Keeps what must not be, with what was sent."""
        self.ends[kind]["FOUND"] += 1
        sort = f"{kind}: {problem[:40].partition('(')[0]}"
        self._found[sort] += 1
        if self._found[sort] == 1 and len(self.findings) < MOST_FINDINGS:
            self.findings.append(f"{kind}: {problem[:500]}\n    sent: {repr(sent)[:2000]}")

    def inputs(self, *kinds: str) -> int:
        """Returns how many there were of these kinds, of all if none is named."""
        return sum(self.ends[kind].total() for kind in kinds or list(self.ends))

    def accepted(self, kind: str) -> int:
        """Returns how many of a kind were taken."""
        return sum(count for end, count in self.ends[kind].items() if end.startswith(ACCEPTED))

    @contextmanager
    def bounded(self, kind: str, process: psutil.Process, limit_mb: float) -> Iterator[None]:
        """Finds a process that grows by more than so many MiB in the block; tells its growth and the time."""
        began, before = time.monotonic(), resident_mb(process)
        yield
        grown = resident_mb(process) - before
        self._tell(f"{kind}: {time.monotonic() - began:.0f} s, {before:.0f} MiB and {grown:+.1f}")
        if grown > limit_mb:
            self.find(kind, f"the process has grown by {grown:.0f} MiB, more than {limit_mb:.0f}", "all of it")

    def report(self) -> str:
        """Returns a table for people."""
        lines = []
        for kind, ends in self.ends.items():
            rest = ", ".join(f"{end}: {count}" for end, count in ends.most_common() if end != ACCEPTED)
            lines.append(f"{kind:<18} {ends.total():>7} inputs, {self.accepted(kind):>6} accepted; {rest}")
        return "\n".join([*lines, *self.findings])


def resident_mb(process: psutil.Process) -> float:
    """Returns what a process and its children have in memory, in MiB."""
    return sum(one.memory_info().rss for one in (process, *process.children(recursive=True))) / 2**20
