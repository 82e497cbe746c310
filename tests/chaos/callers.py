"""Agents that make one call after the other, each with an answer that says whose it is, and note what is under way."""

from __future__ import annotations

import mmap
import os
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
MARK_BYTES = 4096
_HEAD = struct.Struct("=iiiii200p")  # pid, calls begun, calls answered, kind, under way, a foreign answer


class Mark:
    """What a run says of itself in a file that both sides map: it outlives a SIGKILL, and costs no call.

    Attributes:
        pid: of the sandbox; 0 before it has begun.
        begun: how many calls.
        answered: how many of them were.
        kind: the place in `KINDS` of the last one.
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
        self.pid, self.begun, self.answered, self.kind, open_, foreign = _HEAD.unpack_from(self._map)
        self.open, self.foreign = bool(open_), foreign.decode(errors="replace")
        return self

    def save(self) -> None:
        """Writes."""
        foreign = self.foreign.encode()[:199]
        _HEAD.pack_into(self._map, 0, self.pid, self.begun, self.answered, self.kind, int(self.open), foreign)

    def close(self) -> None:
        """Lets go of the file."""
        self._map.close()


class Foreign(Exception):  # noqa: N818 - its name is what the report says
    pass


def query(run: AgentRun, word: str) -> None:
    with run.db() as session:
        answer = session.scalar(QUERY, {"word": word})
    expect(answer, f"{word} {word.split()[0]}")


def store_set(run: AgentRun, word: str) -> None:
    run.store.set(word.split()[1], word, ttl_s=600)


def store_get(run: AgentRun, word: str) -> None:
    kept = run.store.get(word.split()[1])
    expect(None if kept is None else " ".join(kept.split()[:2]), " ".join(word.split()[:2]))


def step(run: AgentRun, word: str) -> None:
    number = int(word.split()[2])
    if number < MOST_STEPS:
        expect(run.state.step(f"step {number}", lambda: word), word)


def state_save(run: AgentRun, word: str) -> None:
    run.state.save(word, "run")


def state_load(run: AgentRun, word: str) -> None:
    kept = run.state.load("run")
    expect(None if kept is None else " ".join(kept.split()[:2]), " ".join(word.split()[:2]))


def emit(run: AgentRun, word: str) -> None:
    run.emit.thinking(word)


def expect(answer: Any, wanted: str) -> None:
    if answer != wanted:
        raise Foreign(f"{answer!r} for {wanted!r}")


KINDS: dict[str, Callable[[AgentRun, str], None]] = {
    "query": query, "store.set": store_set, "store.get": store_get, "step.record": step, "state.save": state_save,
    "state.load": state_load, "emit": emit,
}  # fmt: skip


class Calling(BaseModel):
    mark: Path
    until: Path  # it goes on until this file is there
    calls: int = 1_000_000  # at most
    pause_s: float = 0.0  # after each


class Call(Agent):
    """Calls, checks each answer, and never asks whether it was cancelled."""

    name: ClassVar[str] = "call"
    Input: ClassVar[type[BaseModel]] = Calling
    max_attempts: ClassVar[int] = 1

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        mark = Mark(run.input.mark)
        mark.pid = os.getpid()
        while mark.begun < run.input.calls and not run.input.until.exists():
            mark.kind = mark.begun % len(KINDS)
            word = f"{context.user_id} {context.run_id} {mark.begun} {secrets.token_hex(8)}"
            mark.begun, mark.open = mark.begun + 1, True
            mark.save()
            try:
                list(KINDS.values())[mark.kind](run, word)
            except Foreign as error:
                mark.foreign = str(error)
                raise
            finally:
                mark.answered, mark.open = mark.answered + 1, False
                mark.save()
            time.sleep(run.input.pause_s)
        return {"calls": mark.answered}
