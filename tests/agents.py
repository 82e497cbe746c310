"""Agents for tests: honest ones, slow ones, and some that do what an agent should not."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import ctypes
import itertools
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import sqlalchemy as sa
from pydantic import BaseModel

from shared.context import UserExecutionContext
from worker.authoring import Agent, AgentRun, Retry, Tool
from worker.workflow import Parallel, Results, Sequence, Step, Workflow

FOREVER_S = 600
PR_SET_PDEATHSIG = 1


class Echo(Agent):
    """Returns its input and whose run it is."""

    name = "echo"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return {"input": run.input.model_dump(), "user_id": context.user_id, "depth": context.depth}


class Numbers(BaseModel):
    events: int
    size: int = 1


class Chatty(Agent):
    """Emits numbered events, as fast as they go."""

    name = "chatty"
    Input = Numbers

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        for number in range(run.input.events):
            run.emit.token(f"{number}:".ljust(run.input.size, "x"))
        return {"count": run.emit.count}


class Keep(Agent):
    """Keeps a value for a while and reads it again."""

    name = "keep"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        before = run.store.get("value")
        run.store.set("value", given["value"], given.get("ttl_s", 60))
        return {"before": before, "after": run.store.get("value")}


class Remember(Agent):
    """Counts its runs of a thread; with `hold`, waits between loading and saving until another run has saved."""

    name = "remember"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        before = run.state.load()
        if "save" in given:
            run.emit.token("loaded")
            while given.get("hold") and run.store.get("go") is None:
                time.sleep(0.01)
            run.state.save(given["save"])
        elif given.get("add"):
            run.state.update(lambda value: (value or 0) + given["add"])
        return {"before": before, "after": run.state.load()}


class Steps(Agent):
    """Does three steps, noting each execution; dies, once, where its input says."""

    name = "steps"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        die = run.input.model_dump().get("die")

        async def first() -> Any:
            run.emit.thinking("first")
            return ("a", {"t": (1, 2.0)})

        def second(number: int) -> Any:
            run.emit.thinking("second")
            if die == "in second" and not (run.state.load("run") or {}).get("died"):
                run.state.save({"died": True}, "run")
                os.kill(os.getpid(), signal.SIGKILL)
            return {"number": number}

        made = [await run.state.step("first", first), run.state.step("second", second, 7)]
        if die == "after second" and not run.state.load("run"):
            run.state.save(True, "run")
            os.kill(os.getpid(), signal.SIGKILL)
        return {"made": made, "third": run.state.step("third", lambda: None)}


class Again(Tool):
    """Is busy."""

    name = "again"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        raise Retry("the tool is busy", after_s=5)


class Busy(Agent):
    """Records a step, then asks for further attempts, as often as its input says."""

    name = "busy"
    tools = (Again,)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()

        async def first() -> int:
            run.emit.thinking("first")
            return 1

        made = await run.state.step("first", first)
        tries = run.state.load("run") or 0
        if tries < given.get("times", 0):
            run.state.save(tries + 1, "run")
            raise Retry(given.get("message", "the provider is busy"), after_s=given.get("after_s"))
        if given.get("tool"):
            result = await run.tools.dispatch_tool("again", {}, context)
            return {"success": result.success, "error": result.error}
        return {"made": made, "tries": tries}


class GivesWay(Agent):
    """Waits; when it is cancelled, it asks for another attempt."""

    name = "gives_way"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.token("begun")
        try:
            await asyncio.sleep(FOREVER_S)
        except asyncio.CancelledError:
            raise Retry("later") from None


class Lenient(Agent):
    """A workflow that does without `busy` if it has to; returns the errors that it passed over."""

    name = "lenient"
    workflows: ClassVar[tuple[Workflow, ...]] = (
        Workflow("lenient", Step("busy", "busy", lambda results: results.input.model_dump(), on_failure="continue")),
    )

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        results = await run.workflows.orchestrate_workflow("lenient", context, run)
        return {name: dict(error) for name, error in results.errors.items()}


class Part(Agent):
    """A part of `flow`: says its name; dies, asks for another attempt or waits, once, if its input says so."""

    name = "part"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        run.emit.thinking(given["name"])
        run.emit.progress(0.5, "half way")
        if given.get("die") and not run.state.load("run"):
            run.state.save(True, "run")
            os.kill(os.getpid(), signal.SIGKILL)
        if given.get("retry") and not run.state.load("run"):
            run.state.save(True, "run")
            raise Retry(f"{given['name']} is busy", after_s=0)
        while given.get("hold") and run.store.get("go") is None:  # noqa: ASYNC110 - another process sets it
            await asyncio.sleep(0.01)
        return given["name"]


class Flow(Agent):
    """A workflow: one part, two side by side, one more. Its input names the part that dies, is busy or waits."""

    name = "flow"

    @staticmethod
    def _part(name: str) -> Step:
        def given(results: Results) -> Any:
            asked = results.input.model_dump()
            return {"name": name} | {kind: asked.get(kind) == name for kind in ("die", "retry", "hold")}

        return Step(name, "part", given)

    workflows: ClassVar[tuple[Workflow, ...]] = (
        Workflow("flow", Sequence(_part("first"), Parallel(_part("left"), _part("right")), _part("last"))),
    )

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return dict((await run.workflows.orchestrate_workflow("flow", context, run)).outputs)


class Book(Agent):
    """Writes into a table of the author's own, in a step; dies, once, after the commit if its input says so."""

    name = "book"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()

        def write(session: Any) -> Any:
            run.emit.thinking("writing")
            session.execute(sa.text("INSERT INTO orders (user_id, item) VALUES (lanewise.run_user(), :item)"), given)
            if given.get("fail"):
                raise ValueError("after the insert")
            while given.get("hold") and run.store.get("go") is None:
                time.sleep(0.01)
            return session.scalar(sa.text("SELECT count(*) FROM orders"))

        count = run.state.db_step("order", write)
        if given.get("die") and not run.state.load("run"):
            run.state.save(True, "run")
            os.kill(os.getpid(), signal.SIGKILL)
        return {"count": count}


class Pooled(Agent):
    """Says after each of its transactions who it was there, whose rows it saw, and in which session of the server."""

    name = "pooled"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        look = sa.text("""
            SELECT run_user() AS me, pg_backend_pid() AS session,
                (SELECT array_agg(DISTINCT user_id) FROM documents) AS documents,
                (SELECT array_agg(DISTINCT user_id) FROM orders) AS orders
        """)

        def order(session: Any) -> str:
            session.execute(sa.text("INSERT INTO orders (user_id, item) VALUES (lanewise.run_user(), 'x')"))
            return str(session.scalar(sa.text("SELECT run_user()")))

        seen = []
        for number in range(run.input.model_dump()["times"]):
            recorded = run.state.db_step(f"order {number}", order)
            with run.db() as session:
                seen.append({**session.execute(look).one()._mapping, "recorded": recorded})
        return seen


class Holder(Agent):
    """Records a step and keeps that transaction open; then calls its runner, who needs what the transaction holds."""

    name = "holder"
    max_attempts: ClassVar[int] = 1

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        how = run.input.model_dump()["how"]
        with run.db() as session:
            session.execute(sa.text("SELECT record_own_step('x', '1')"))
            run.emit.thinking("begun")
            if how == "artifact":
                run.artifacts.save("a.txt", "x", "text/plain")
            elif how == "step":
                run.state.step("x", lambda: 2)
            elif how == "result":
                # As `perform` does, and then it does not go.
                run.store._link.send({"t": "result", "output": "held"})  # type: ignore[attr-defined]
            run.emit.thinking("called")
            time.sleep(FOREVER_S)


class Both(Agent):
    """Adds to its memory from two threads at once, as often as its input says; or saves one value twice."""

    name = "both"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        if given.get("twice"):
            other = run.state.child("both", "other")
            run.state.load(), other.load()
            run.state.save("same")
            other.save("same")
        with ThreadPoolExecutor(2) as pool:
            add = lambda _: run.state.update(lambda value: (value or 0) + 1)  # noqa: E731
            list(pool.map(add, range(given["times"])))
        return run.state.load()


class Files(Agent):
    """Saves the files that its input lists."""

    name = "files"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return [
            run.artifacts.save(
                item["name"], item.get("text", "x") * item.get("times", 1), item.get("type", "text/plain")
            )
            for item in run.input.model_dump()["files"]
        ]


class Wait(Agent):
    """Waits, so that a cancel can interrupt it; says when it has begun."""

    name = "wait"
    max_attempts: ClassVar[int] = 1

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.token("begun")
        await asyncio.sleep(run.input.model_dump().get("seconds", FOREVER_S))
        return {"waited": True}


class Recover(Wait):
    """Waits like `wait`, and may lose attempts."""

    name = "recover"
    max_attempts = 3


class Poll(Agent):
    """Looks whether it is cancelled, as a plain agent should, and tidies up."""

    name = "poll"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.token("begun")
        while not run.cancelled:
            time.sleep(0.01)
        run.emit.token("tidied")
        return {"cancelled": True}


class Block(Agent):
    """Blocks where nothing of Python's own can interrupt it."""

    name = "block"
    max_attempts = 1

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.token("begun")
        if run.input.model_dump().get("how") == "busy":
            return sum(itertools.repeat(1))  # a loop in C that never gives up the interpreter
        time.sleep(FOREVER_S)
        return None


class Stubborn(Agent):
    """Ignores SIGTERM and cancellation, and keeps the interpreter to itself."""

    name = "stubborn"

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        run.emit.token("begun")
        return sum(itertools.repeat(1))


class Die(Agent):
    """Ends its process: by a signal or with a status."""

    name = "die"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        run.emit.token("begun")
        if "status" in given:
            os._exit(given["status"])
        os.kill(os.getpid(), given["signal"])
        time.sleep(FOREVER_S)


class Fail(Agent):
    """Raises."""

    name = "fail"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        raise ValueError("no good")


class Eat(Agent):
    """Takes memory until there is none: at once, or bit by bit."""

    name = "eat"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        if run.input.model_dump().get("how") == "at once":
            return len(bytearray(1 << 29))  # twice what it may have
        held = []
        while True:
            held.append(bytearray(1000))


class Look(Agent):
    """Says what its process can see."""

    name = "look"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        for stream in (sys.stdout, sys.stderr):
            stream.write("canary-of-a-print\n")
            stream.flush()
        os.write(1, b"canary-of-a-print\n")
        folder = Path.cwd()
        (folder / "own.txt").write_text("mine")
        return {
            "pid": os.getpid(), "environment": dict(os.environ), "folder": str(folder), "fds": _open_files(),
            "files": [path.name for path in folder.iterdir()], "mode": folder.stat().st_mode & 0o777,
            "core": resource.getrlimit(resource.RLIMIT_CORE), "memory": resource.getrlimit(resource.RLIMIT_AS)[0],
            "group": os.getpgid(0), "session": os.getsid(0), "nice": os.nice(0), "shares": _session_nice(),
        }  # fmt: skip


def _session_nice() -> str | None:
    with contextlib.suppress(OSError):
        return Path("/proc/self/autogroup").read_text().split()[-1]
    return None


def _open_files() -> dict[str, str]:
    found = {}
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # that of the listing itself
            found[path.name] = str(path.readlink())
    return found


class Spawn(Agent):
    """Leaves processes behind: one that ignores SIGTERM, one that left the session, one that left its parent too.

    With `alone` the kernel does not end its own process with its parent either.
    """

    name = "spawn"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        code = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({FOREVER_S})"
        pids = [subprocess.Popen([sys.executable, "-c", code]).pid]
        pids.append(subprocess.Popen([sys.executable, "-c", code], start_new_session=True).pid)
        pids.append(_daemon())
        if given.get("alone"):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, 0, 0, 0, 0)
        run.emit.token(",".join(map(str, pids)))
        if given.get("then") == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if given.get("then") == "wait":
            time.sleep(FOREVER_S)
        return pids


class Multiply(Agent):
    """Forks for a while as fast as it can, and so does each that it has forked, in a session of its own."""

    name = "multiply"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.token("begun")
        until = time.monotonic() + 15
        while time.monotonic() < until:
            try:
                if os.fork() == 0:
                    os.setsid()
            except OSError:  # there are as many as there may be
                time.sleep(0.02)
        os._exit(0)


def _daemon() -> int:
    """Forks twice, so that the grandchild has neither our session nor us as its parent; returns its pid."""
    read, write = os.pipe()
    if (child := os.fork()) == 0:
        os.setsid()
        if (grandchild := os.fork()) == 0:
            time.sleep(FOREVER_S)
        os.write(write, str(grandchild).encode())
        os._exit(0)
    os.waitpid(child, 0)
    return int(os.read(read, 20))


class Hostile(Agent):
    """Writes what it is given to the runner, past everything that would check it."""

    name = "hostile"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        run.emit.token("begun")
        sock: socket.socket = run.emit._bridge._link._frames.sock  # type: ignore[attr-defined]
        frames = base64.b64decode(given["bytes"]) * given.get("times", 1) + b" " * given.get("spaces", 0)
        for _ in range(given.get("again", 1)):
            sock.sendall(frames)
        if given.get("then") == "close":
            sock.shutdown(socket.SHUT_RDWR)
        if given.get("then") == "return":
            return {"returned": True}
        time.sleep(FOREVER_S)
        return None


class AskRedis(Agent):
    """Gives commands to a Redis, as somebody who has no password, and says what the answers begin with."""

    name = "ask_redis"
    network = True  # so that it is Redis that refuses

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        answers = {}
        for command in given["commands"]:
            with socket.create_connection(("127.0.0.1", given["port"]), timeout=5) as connection:
                connection.sendall(f"{command}\r\n".encode())
                answers[command] = connection.recv(100).decode().split()[0]
        return answers


class Deaf(Agent):
    """Calls and calls and never reads an answer."""

    name = "deaf"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.token("begun")
        link = run.emit._bridge._link  # type: ignore[attr-defined]
        link._frames.receive = lambda: time.sleep(FOREVER_S)
        for number in itertools.count():
            link.send({"t": "call", "id": number, "method": "store.get", "params": {"key": "k" * 100}})


class Segfault(Agent):
    """Crashes in C."""

    name = "segfault"
    max_attempts = 1

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return ctypes.string_at(0)


class Shout(BaseModel):
    text: str


class Upper(Tool):
    """Writes in capitals."""

    name = "upper"
    Parameters = Shout

    async def run(self, context: UserExecutionContext, parameters: Shout) -> Any:
        await asyncio.sleep(0)
        return parameters.text.upper()


class Secret(Tool):
    """Needs a grant."""

    name = "secret"
    permission = "granted"

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        return "told"


class Tools(Agent):
    """Calls its tools in both ways."""

    name = "tools"
    tools = (Upper, Secret)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        awaited = await run.tools.dispatch_tool("upper", {"text": "a"}, context)
        called = run.tools.call("upper", text="b")
        secret = await run.tools.dispatch_tool("secret", {}, context)
        return {"awaited": awaited.value, "called": called, "secret": secret.value, "error": secret.error}


class Saying(BaseModel):
    times: int
    pause_s: float = 0.05


class Talk(Agent):
    """Says something now and then."""

    name = "talk"
    Input = Saying

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        for number in range(run.input.times):
            run.emit.token(str(number))
            time.sleep(run.input.pause_s)
        return {"said": run.input.times}
