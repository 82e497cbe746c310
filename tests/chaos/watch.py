"""What one follower of a user's stream wrote down, and how it is judged against the log."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

FIELDS = ("run_id", "run_seq", "thread_id", "attempt", "type", "agent", "at", "correlation_id", "data")
SHOWN = 5  # numbers in one complaint


@dataclass(frozen=True)
class Told:
    """The service said that it could not go on after `after`, and sent a snapshot as of `head`."""

    after: int
    head: int
    reason: str
    snapshot: bool


@dataclass
class Watch:
    """One follower's own record, of all its connections.

    Args:
        start: it watches what comes after this `seq`; None: it was never welcomed.
        seqs: of the events that it accepted, in the order in which they came.
        digests: of the same events.
        doubled: numbers that came again over one connection.
        early: (accepted last, came) where a number was left out.
        told: gaps that the service told.
        canaries: all that were in any frame.
        cuts: by what ended a connection that was still wanted.
        in_replay: how many of these came before the replay was over.
        moves: how many connections were to another gateway than the one before.
    """

    user: str
    name: str
    start: int | None = None
    seqs: list[int] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    early: list[tuple[int, int]] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    canaries: set[str] = field(default_factory=set)
    cuts: Counter[str] = field(default_factory=Counter)
    in_replay: int = 0
    moves: int = 0

    @property
    def last(self) -> int:
        """The cursor."""
        heads = [gap.head for gap in self.told[-1:]]
        return max([self.start or 0, *self.seqs[-1:], *heads])

    def accept(self, seq: int, digest: str) -> bool:
        """Takes an event by the published rule; False if one before it is missing: connect again."""
        if seq <= self.last:
            self.doubled.append(seq)
        elif seq > self.last + 1:
            self.early.append((self.last, seq))
            return False
        else:
            self.seqs.append(seq)
            self.digests.append(digest)
        return True

    def to_json(self) -> str:
        """Returns it as one line."""
        return json.dumps(vars(self) | {"canaries": sorted(self.canaries), "told": [vars(gap) for gap in self.told]})

    @classmethod
    def from_json(cls, line: str) -> Watch:
        """Returns what `to_json` has written."""
        values = json.loads(line)
        told = [Told(**gap) for gap in values.pop("told")]
        canaries, cuts = set(values.pop("canaries")), Counter(values.pop("cuts"))
        early = [(last, came) for last, came in values.pop("early")]
        return cls(**values, told=told, canaries=canaries, cuts=cuts, early=early)


@dataclass(frozen=True)
class Log:
    """A user's log as the database has it.

    Args:
        digests: by `seq`; what was trimmed is not there.
        trimmed: the `seq` up to which events were removed.
    """

    digests: Mapping[int, str]
    head: int
    trimmed: int = 0


def digest(event: Mapping[str, Any]) -> str:
    """Returns what two events have in common only if all their content is the same."""
    text = json.dumps([event[name] for name in FIELDS], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def judge(watch: Watch, log: Log, canary: str) -> Iterator[tuple[str, str]]:
    """Yields what is wrong with a follower's record: the invariant, and how it was broken.

    Args:
        canary: the user's own.
    """
    complaints: dict[str, Sequence[object]] = {
        "lost": _lost(watch, log),
        "doubled": watch.doubled,
        "order": [*watch.early, *((a, b) for a, b in zip(watch.seqs, watch.seqs[1:], strict=False) if a >= b)],
        "changed": [
            seq
            for seq, seen in zip(watch.seqs, watch.digests, strict=True)
            if seq > log.trimmed and log.digests.get(seq) != seen
        ],
        "foreign": sorted(watch.canaries - {canary}),
        "told": [gap for gap in watch.told if not _was_true(gap, log)],
    }
    for invariant, wrong in complaints.items():
        if wrong:
            shown = ", ".join(map(str, wrong[:SHOWN]))
            yield invariant, f"{watch.user}, {watch.name}: {len(wrong)} of {len(watch.seqs)}: {shown}"


def _lost(watch: Watch, log: Log) -> list[int]:
    if watch.start is None:
        return list(log.digests)
    excused = {seq for gap in watch.told for seq in range(gap.after + 1, gap.head + 1)}
    return sorted(set(range(watch.start + 1, log.head + 1)) - set(watch.seqs) - excused)


def _was_true(gap: Told, log: Log) -> bool:
    """Nothing but a trimmed log is a reason here: no cursor is ahead of a log that loses nothing at its end."""
    return gap.reason == "trimmed" and gap.after < log.trimmed and gap.snapshot
