"""Agents that do what acceptance tests need to see."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.orm import Session

from lanewise import Agent, AgentRun, Retry, Tool, ToolError, UserExecutionContext
from tests.fleet.memory import readable

POLL_S = 0.01
BOUND_S = 60.0


def say_pid(run: AgentRun) -> None:
    run.emit.thinking(f"pid {os.getpid()}")


class Words(BaseModel):
    text: str


class Talk(Agent):
    """Says each word of a text and returns them."""

    name: ClassVar[str] = "talk"
    Input: ClassVar[type[BaseModel]] = Words

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        words = run.input.text.split()
        run.emit.thinking(f"{len(words)} words")
        for number, word in enumerate(words, 1):
            run.emit.progress(number / len(words), word)
        run.emit.token(run.input.text)
        return {"words": words}


class Gate(BaseModel):
    gate: Path | None = None  # the run goes on when this file is there
    seconds: float = BOUND_S  # or after this time


class Hold(Agent):
    """Blocks until a file appears, and never asks whether it was cancelled."""

    name: ClassVar[str] = "hold"
    Input: ClassVar[type[BaseModel]] = Gate

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        began = time.time()
        say_pid(run)
        deadline = time.monotonic() + run.input.seconds
        while time.monotonic() < deadline and not (run.input.gate and run.input.gate.exists()):
            time.sleep(POLL_S)
        return {"began": began, "ended": time.time()}


class Mortal(Hold):
    """As `hold`, with a single attempt."""

    name: ClassVar[str] = "mortal"
    max_attempts: ClassVar[int] = 1


class Tallied(BaseModel):
    folder: Path
    seconds: float


class Tally(Agent):
    """Leaves a line in a file named like its run each time that it begins."""

    name: ClassVar[str] = "tally"
    Input: ClassVar[type[BaseModel]] = Tallied

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        with (run.input.folder / context.run_id).open("a") as file:
            file.write("begun\n")
        await asyncio.sleep(run.input.seconds)
        return {}


class Climb(Agent):
    """Does steps until a file appears; tells how many times each one was done, and remembers the sum in its thread."""

    name: ClassVar[str] = "climb"
    Input: ClassVar[type[BaseModel]] = Gate

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        done: list[int] = []

        def do(number: int) -> int:
            done.append(number)
            return number

        number, deadline = 0, time.monotonic() + run.input.seconds
        while not (run.input.gate and run.input.gate.exists()) and time.monotonic() < deadline:
            assert run.state.step(f"step {number}", do, number) == number
            run.emit.progress(0, f"step {number}")
            number += 1
            time.sleep(POLL_S)
        assert done == list(range(number - len(done), number))  # those of an earlier attempt are not done again
        remembered = run.state.update(lambda before: (before or 0) + len(done))
        return {"steps": len(done), "remembered": remembered}


class Times(BaseModel):
    times: int = 1  # attempts that are not enough
    after_s: float | None = None


class Busy(Agent):
    """Does a step, then asks for further attempts; tells when it did the step."""

    name: ClassVar[str] = "busy"
    Input: ClassVar[type[BaseModel]] = Times
    max_attempts: ClassVar[int] = 2

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        async def order() -> str:
            run.emit.thinking("ordering")
            return context.run_id

        ordered = await run.state.step("order", order)
        tries = run.state.update(lambda before: (before or 0) + 1, "run")
        if tries <= run.input.times:
            raise Retry("the provider is busy", after_s=run.input.after_s)
        return {"ordered_by": ordered, "tries": tries}


class Polite(Agent):
    """Waits, and tidies up when it is cancelled."""

    name: ClassVar[str] = "polite"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        say_pid(run)
        try:
            await asyncio.sleep(BOUND_S)
        finally:
            run.emit.thinking("tidied up")


class Watchful(Agent):
    """Blocks, and looks whether it was cancelled."""

    name: ClassVar[str] = "watchful"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        say_pid(run)
        deadline = time.monotonic() + BOUND_S
        while time.monotonic() < deadline and not run.cancelled:
            time.sleep(POLL_S)


class Refused(Exception):  # noqa: N818 - its name is what a user reads
    pass


class Refuse(Agent):
    """Fails with what it was told to say."""

    name: ClassVar[str] = "refuse"
    Input: ClassVar[type[BaseModel]] = Words

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        try:
            vars(self)["inner"]
        except KeyError as error:
            raise Refused(run.input.text) from error


class Order(BaseModel):
    count: Annotated[int, Field(ge=1, le=10)]
    colours: list[str] = []


class Strict(Agent):
    """Takes a small number and names of colours."""

    name: ClassVar[str] = "strict"
    Input: ClassVar[type[BaseModel]] = Order

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return {"count": run.input.count}


# Here on purpose: a careless author's cache. It dies with the sandbox, so that nobody else ever finds it.
CACHE: dict[str, Any] = {}
CANARY = re.compile(rb"lwcanary[0-9a-f]{32}")


class Places(BaseModel):
    """A canary for each place that an agent can write to, and where to meet the other runs."""

    thinking: str
    progress: str
    token: str
    parameter: str
    tool_error: str
    store: str
    step: str
    state: str
    memory: str
    artifact: str
    artifact_name: str
    file: str
    file_name: str
    result: str
    error: str | None = None
    barrier: Path | None = None  # None: nobody is waited for
    runs: int = 0


class Whispered(BaseModel):
    text: str
    fails: bool = False


class Whisper(Tool):
    """Says what it was told, or fails with it."""

    name: ClassVar[str] = "whisper"
    Parameters: ClassVar[type[BaseModel]] = Whispered

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        if parameters.fails:
            raise ToolError(parameters.text)
        self.scope.emit.thinking(parameters.text)
        return parameters.text


class Spy(Agent):
    """Leaves canaries wherever it can, then looks for everybody's wherever it can, while all other runs are at work."""

    name: ClassVar[str] = "spy"
    Input: ClassVar[type[BaseModel]] = Places
    tools: ClassVar[tuple[type[Tool], ...]] = (Whisper,)

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        places = run.input
        report = {
            "links": open_files(),
            "environment": digests(Path("/proc/self/environ").read_bytes() + repr(dict(os.environ)).encode()),
            "folder at start": digests(files()),
            "memory at start": digests_of_memory(),
        }
        CACHE[context.user_id] = places.model_dump()
        leave(places)
        Path(f"{places.file_name}.txt").write_text(places.file)
        run.emit.thinking(places.thinking)
        run.emit.progress(0.5, places.progress)
        run.emit.token(places.token)
        run.tools.call("whisper", text=places.parameter)
        with suppress(ToolError):
            run.tools.call("whisper", text=places.tool_error, fails=True)
        run.store.set("note", places.store, ttl_s=60)
        run.state.step("look", lambda: places.step)
        run.state.save(places.state, "run")
        run.state.update(lambda _: places.memory)
        run.artifacts.save(f"{places.artifact_name}.txt", places.artifact, "text/plain")
        if places.barrier:
            meet(places.barrier, run_id=context.run_id, runs=places.runs)
        report |= {
            "store": digests(str(run.store.get("note")).encode()),
            "state": digests(json.dumps([run.state.load(), run.state.load("run")]).encode()),
            "rows": digests(b" ".join(rows(run))),
            "folder": digests(files()),
            "cache": digests(repr(CACHE).encode()),
        }
        if places.barrier:
            report["memory"] = digests_of_memory()  # with what was read before
        run.emit.thinking(json.dumps(report))
        if places.error:
            raise Refused(places.error)
        return {"canary": places.result}


def leave(places: Places) -> None:
    """Keeps them where a planted leak would have them kept."""


def meet(barrier: Path, *, run_id: str, runs: int) -> None:
    """Waits until all are here, so that everybody's data is in the fleet when everybody looks."""
    (barrier / run_id).touch()
    deadline = time.monotonic() + BOUND_S
    while len(list(barrier.iterdir())) < runs:
        if time.monotonic() > deadline:
            raise TimeoutError(f"the other {runs} runs did not come")
        time.sleep(5 * POLL_S)  # thirty look at once


def open_files() -> list[str]:
    """Names what this process has open."""
    found = []
    for descriptor in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the one that lists them
            found.append(str(descriptor.readlink()))
    return found


def files() -> bytes:
    """Returns names and contents of all files in this sandbox's folder."""
    return b" ".join(str(path).encode() + b" " + path.read_bytes() for path in Path.cwd().rglob("*") if path.is_file())


def digests(content: bytes) -> list[str]:
    """Names the canaries in a text without repeating them."""
    return sorted({hashlib.sha256(found).hexdigest() for found in CANARY.findall(content)})


def digests_of_memory() -> list[str]:
    """Names the canaries in this process's memory."""
    return sorted({found for area in readable() for found in digests(area)})


def rows(run: AgentRun) -> Iterator[bytes]:
    """Yields every row that the run's token opens, also after pretending to be the service or anybody."""
    for pretend in ("", "*"):
        with run.db() as session:
            session.execute(sa.text("SELECT set_config('lanewise.user', :user, true)"), {"user": pretend})
            for table in session.scalars(sa.text(READABLE)).all():
                yield from everything(session, table)


READABLE = """
    SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
    WHERE schemaname = 'lanewise' AND has_table_privilege(format('%I.%I', schemaname, tablename), 'SELECT')
"""


def everything(session: Session, table: str) -> Iterator[bytes]:
    """Yields each value of a table as bytes."""
    for row in session.execute(sa.text(f"SELECT * FROM {table}")):  # noqa: S608 - a name from the catalogue
        for value in row:
            yield bytes(value) if isinstance(value, memoryview) else str(value).encode()
