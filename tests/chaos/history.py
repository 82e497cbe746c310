"""What a run of the suite leaves to judge: what clients sent and saw, what was sampled, and what is stored at the end.

Plain data, nothing else: the checker is a function over it.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class User:
    """Somebody who submits.

    Args:
        limit: how many runs of theirs may be running at once.
        canary: is in all their inputs, and must be in nobody else's hands.
    """

    limit: int
    canary: str


@dataclass
class Accepted:
    """A run that its client saw accepted.

    Args:
        steps: how many steps it does, each with an effect in the database.
        doomed: whether its agent fails by itself.
        cancelled: whether its client has asked to cancel it.
    """

    user: str
    agent: str
    key: str
    steps: int
    doomed: bool = False
    cancelled: bool = False


@dataclass(frozen=True)
class Answer:
    """A strange answer to a call."""

    user: str
    call: str
    status: int
    body: str


@dataclass(frozen=True)
class Seen:
    """The numbers and the type of an event, as a client got it or as the log has it; or a gap that the client was told.

    Args:
        seq: for a gap the head after which the stream goes on.
        type: `gap` for a gap.
    """

    seq: int
    run_id: str = ""
    run_seq: int = 0
    type: str = "gap"


@dataclass(frozen=True)
class Sample:
    """How many runs of each user were running at one moment, as one statement saw it."""

    at: float
    running: dict[str, int]


@dataclass(frozen=True)
class Sighting:
    """A canary, and who had it where."""

    user: str
    canary: str
    where: str


@dataclass(frozen=True)
class StoredRun:
    """The row of a run at the end."""

    user: str
    status: str
    attempt: int
    lost_attempts: int
    last_run_seq: int
    error: dict[str, Any] | None = None
    parked: bool = False


@dataclass(frozen=True)
class Step:
    """A recorded step, or the effect of one."""

    user: str
    run_id: str
    name: str


@dataclass
class Final:
    """What the stores hold after everything has come to rest.

    Args:
        runs: by id.
        events: by user, in the order of `seq`.
        slots: members that users hold in Redis.
    """

    runs: dict[str, StoredRun] = field(default_factory=dict)
    events: dict[str, list[Seen]] = field(default_factory=dict)
    steps: list[Step] = field(default_factory=list)
    effects: list[Step] = field(default_factory=list)
    slots: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        running: how many runs were running just before.
        proof: what shows that it hit; empty: nothing does.
    """

    number: int
    kind: str
    at: float
    took_s: float
    running: int
    proof: dict[str, Any]

    @property
    def proven(self) -> bool:
        """Whether it hit, while a run was in flight."""
        return bool(self.proof) and self.running > 0


@dataclass
class History:
    """Everything that one run of the suite recorded. Filled by several threads, each by appending.

    Args:
        accepted: by run id.
        again: run ids that the same key was answered with later on, by key.
        ends: (run id, status) as seen in any answer or event.
        refusals: answers that a client retried after, by status and code.
        minimum: how many runs must have completed.
    """

    max_attempts: int = 10
    minimum: int = 1
    users: dict[str, User] = field(default_factory=dict)
    accepted: dict[str, Accepted] = field(default_factory=dict)
    again: list[tuple[str, str]] = field(default_factory=list)
    ends: set[tuple[str, str]] = field(default_factory=set)
    streams: dict[str, list[Seen]] = field(default_factory=dict)
    sightings: set[Sighting] = field(default_factory=set)
    answers: list[Answer] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    final: Final = field(default_factory=Final)

    def write(self, folder: Path) -> None:
        """Writes it as JSON lines, one file for each kind."""
        final = asdict(self.final)
        for name, value in {**asdict(self), **{f"final.{key}": part for key, part in final.items()}}.items():
            if name == "final":
                continue
            items = value.items() if isinstance(value, dict) else value if isinstance(value, list | set) else [value]
            with (folder / f"{name}.jsonl").open("w") as file:
                file.writelines(json.dumps(item, default=str) + "\n" for item in items)
