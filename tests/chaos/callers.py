"""An agent that makes one call after the other, whose answers say whose they are, and notes which one is under way."""

from __future__ import annotations

import mmap
import os
import random
import secrets
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Self

import sqlalchemy as sa
from pydantic import BaseModel

from lanewise import Agent, AgentRun, UserExecutionContext

QUERY = sa.text("SELECT CAST(:word AS text) || ' ' || lanewise.run_user()")
MOST_STEPS = 900
BURST = 20
MOST_CALLS = 1_000_000
MARK_BYTES = 512
_MARK = struct.Struct("=iii20p?300p")


class Mark:
    """What a run says of itself in a file that both sides map: it outlives a SIGKILL, and costs no call.

    Attributes:
        pid: of the sandbox; 0 before it has begun.
        begun: how many calls.
        answered: how many of them were.
        kind: of the last one.
        open: whether it is under way.
        foreign: an answer that was not the caller's.
    """

    def __init__(self, path: Path) -> None:
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), MARK_BYTES)
        self.load()

    @classmethod
    def make(cls, path: Path) -> Self:
        """Returns a new one."""
        path.write_bytes(bytes(MARK_BYTES))
        return cls(path)

    def load(self) -> Self:
        """Reads what the other side has written."""
        self.pid, self.begun, self.answered, kind, self.open, foreign = _MARK.unpack_from(self._map)
        self.kind, self.foreign = kind.decode(), foreign.decode(errors="replace")
        return self

    def save(self) -> None:
        """Writes."""
        texts = (self.kind.encode(), self.foreign.encode()[:299])
        _MARK.pack_into(self._map, 0, self.pid, self.begun, self.answered, texts[0], self.open, texts[1])

    def close(self) -> None:
        """Lets go of the file."""
        self._map.close()


class Foreign(Exception):  # noqa: N818 - its name is what the report says
    pass


def expect(answer: Any, wanted: str) -> None:
    if answer != wanted:
        raise Foreign(f"{answer!r} for {wanted!r}")


class Caller:
    """Makes the calls of one run and checks their answers.

    Args:
        mine: what all words of the run begin with.
    """

    def __init__(self, run: AgentRun, mine: str) -> None:
        self._run = run
        self._mine = mine
        self._kept: dict[str, str] = {}  # by this run, in the store and in its state
        self._steps = 0

    def call(self, kind: str) -> None:
        """Makes one call.

        Raises:
            Foreign: the answer was not this caller's.
        """
        CALLS[kind](self, f"{self._mine} {secrets.token_hex(8)}")

    def query(self, word: str) -> None:
        with self._run.db() as session:
            expect(session.scalar(QUERY, {"word": word}), f"{word} {self._mine.split(maxsplit=1)[0]}")

    def store_set(self, word: str) -> None:
        self._run.store.set(self._mine, word, ttl_s=600)
        self._kept["store"] = word

    def store_get(self, _word: str) -> None:
        kept = self._run.store.get(self._mine)
        expect(kept, self._kept.get("store", kept))

    def step_record(self, word: str) -> None:
        if self._steps < MOST_STEPS:
            self._steps += 1
            expect(self._run.state.step(f"step {self._steps}", lambda: word), word)

    def state_save(self, word: str) -> None:
        self._run.state.save(word, "run")
        self._kept["state"] = word

    def state_load(self, _word: str) -> None:
        kept = self._run.state.load("run")
        expect(kept, self._kept.get("state", kept))

    def emit(self, word: str) -> None:
        for _ in range(BURST):  # one alone is written before anybody could come in between
            self._run.emit.thinking(word)


CALLS: dict[str, Callable[[Caller, str], None]] = {
    "query": Caller.query, "store.set": Caller.store_set, "store.get": Caller.store_get,
    "step.record": Caller.step_record, "state.save": Caller.state_save, "state.load": Caller.state_load,
    "emit": Caller.emit,
}  # fmt: skip


class Calling(BaseModel):
    mark: Path
    until: Path  # it goes on until this file is there
    kinds: list[str]
    calls: int = MOST_CALLS  # at most
    pause_s: float = 0.0  # after each


class Call(Agent):
    """Calls, checks each answer, and never asks whether it was cancelled."""

    name: ClassVar[str] = "call"
    Input: ClassVar[type[BaseModel]] = Calling
    max_attempts: ClassVar[int] = 1

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        task, mark = run.input, Mark(run.input.mark)
        mark.pid = os.getpid()
        caller = Caller(run, f"{context.user_id} {context.run_id}")
        while mark.begun < task.calls and not task.until.exists():
            mark.kind = random.choice(task.kinds)
            mark.begun, mark.open = mark.begun + 1, True
            mark.save()
            try:
                caller.call(mark.kind)
            except Foreign as error:
                mark.foreign = str(error)
                raise
            finally:
                mark.answered, mark.open = mark.answered + 1, False
                mark.save()
            time.sleep(task.pause_s)
        return {"calls": mark.answered}
