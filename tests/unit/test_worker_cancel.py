"""A cancel from the runner reaches what blocks in a sandbox whenever it comes, and whatever comes of it."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from shared.context import UserExecutionContext
from shared.frames import FrameSocket
from tests.parts import registry_of
from tests.services import a_context
from worker.authoring import Agent, AgentRun, Tool
from worker.link import RunnerLink
from worker.sandbox import serve

PATIENCE_S = 10.0


class Sleep(Tool):
    """Waits."""

    name = "sleep"
    time_limit_s = PATIENCE_S

    async def run(self, context: UserExecutionContext, parameters: Any) -> None:
        await asyncio.sleep(2 * PATIENCE_S)


class Blocks(Agent):
    """Blocks its event loop with a call, so that a cancel of its task does not reach it."""

    name = "blocks"
    tools = (Sleep,)

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.tools.call("sleep")


@pytest.fixture
def ends() -> Iterator[tuple[RunnerLink, FrameSocket]]:
    """The sandbox's end as a link, and the runner's as frames."""
    sandbox, runner = socket.socketpair()
    runner.settimeout(PATIENCE_S)
    with sandbox, runner:
        yield RunnerLink(sandbox), FrameSocket(runner)


def test_a_cancel_that_is_there_when_listening_begins_interrupts(
    ends: tuple[RunnerLink, FrameSocket], monkeypatch: pytest.MonkeyPatch
) -> None:
    link, runner = ends
    start = {"agent": "blocks", "input": {}, "context": a_context().to_dict(), "database_url": None,
             "database_token": ""}  # fmt: skip
    listen = RunnerLink.listen

    def listen_until_it_was_handled(self: RunnerLink, on_cancel: Callable[[], None], on_gone: Any) -> None:
        handled = threading.Event()
        self.interrupts.append(handled.set)
        listen(self, on_cancel, on_gone)
        assert handled.wait(PATIENCE_S)

    monkeypatch.setattr(RunnerLink, "listen", listen_until_it_was_handled)
    runner.send({"t": "cancel"})
    asyncio.run(serve(link, start, registry_of(Blocks), lambda: None))
    frames = [runner.receive() for _ in range(3)]
    assert [frame and frame.get("type", frame["t"]) for frame in frames] == [
        "agent_started", "agent_failed", "cancelled",
    ]  # fmt: skip


def test_an_interrupt_that_fails_ends_nothing_but_itself(ends: tuple[RunnerLink, FrameSocket]) -> None:
    link, runner = ends
    gone, interrupted = threading.Event(), threading.Event()

    def fail() -> None:
        raise MemoryError

    link.interrupts += [fail, interrupted.set]
    link.listen(fail, gone.set)
    runner.send({"t": "cancel"})
    assert interrupted.wait(PATIENCE_S)
    answers: list[Any] = []
    asking = threading.Thread(target=lambda: answers.append(link.call("store.get", key="k")))
    asking.start()
    call = runner.receive()
    assert call is not None
    runner.send({"t": "reply", "id": call["id"], "value": 5})
    asking.join(PATIENCE_S)
    assert answers == [5]
    assert not gone.is_set()
    runner.sock.shutdown(socket.SHUT_WR)
    assert gone.wait(PATIENCE_S)
