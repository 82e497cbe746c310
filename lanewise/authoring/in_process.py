"""An agent in this process, where debuggers, coverage and patches reach it; its supervision is a worker's."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from lanewise.authoring.local_run import Json, LocalRun, Order
from lanewise.authoring.memory import Memory
from worker.authoring import Agent
from worker.link import RunnerLink
from worker.registry import AgentClassRegistry
from worker.sandbox import serve
from worker.zygote_client import SandboxProcess

END_TIMEOUT_S = 10.0  # for a supervision that has nothing left to wait for
CANCEL_TIMEOUT_S = 10.0


def registry_of(agents: Iterable[type[Agent]]) -> AgentClassRegistry:
    """Returns a frozen registry of these agents.

    Raises:
        ConfigurationError: one is not sound, with file, line and cure.
    """
    registry = AgentClassRegistry()
    for agent in agents:
        registry.register(agent)
    registry.freeze()
    return registry


def run_in_process(
    order: Order, memory: Memory, registry: AgentClassRegistry, cancel_when: Callable[[Json], bool]
) -> tuple[LocalRun, list[Json]]:
    """Runs an agent to its end; returns the run and its events in their public form.

    A plain agent that does not look at `run.cancelled` cannot be ended here: no process can be killed.

    Args:
        cancel_when: given `{"type", "agent", "data"}` of each event as it is emitted; true asks the run to end.
    """
    events: list[Json] = []

    def put(event: Json, timeout_s: float) -> bool:
        del timeout_s
        events.append(event)
        return True

    run = LocalRun(order, memory, put)
    ours, theirs = socket.socketpair()
    sandbox = SandboxProcess(1, ours, run.live.wake)
    link, gone = _Link(theirs, run, cancel_when), threading.Event()
    supervision = _Thread(lambda: run.supervise(sandbox, lambda _: None))
    supervision.start()
    try:
        _run(lambda: serve(link, link.receive_start(), registry, gone.set))
    finally:
        sandbox.exited.set()
        run.live.wake()
        supervision.finish()
        gone.wait(END_TIMEOUT_S)
        theirs.close()
        run.live.close()
    return run, events


class _Link(RunnerLink):
    """Cancels where it is told to, and comes back when the agent knows: nothing that follows depends on luck."""

    def __init__(self, sock: socket.socket, run: LocalRun, cancel_when: Callable[[Json], bool]) -> None:
        super().__init__(sock)
        self._run = run
        self._cancel_when = cancel_when

    def send(self, frame: Json) -> None:
        """Writes a frame out."""
        super().send(frame)
        if frame["t"] == "event" and self._cancel_when({name: frame[name] for name in ("type", "agent", "data")}):
            self._run.live.cancel()
            self.cancelled.wait(CANCEL_TIMEOUT_S)


class _Thread(threading.Thread):
    """Carries what its work raises over to whoever waits for it."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(name="lanewise-run", daemon=True)
        self._work = work
        self._error: BaseException | None = None

    def run(self) -> None:
        """Works."""
        try:
            self._work()
        except BaseException as error:  # noqa: BLE001 - see the class
            self._error = error

    def finish(self) -> None:
        """Waits for the end; raises what the work raised."""
        self.join(END_TIMEOUT_S)
        if self._error is not None:
            raise self._error


def _run(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Runs a coroutine to its end: here, or in a thread if this one has a running loop (a test that is async)."""
    if asyncio._get_running_loop() is None:  # noqa: SLF001 - the public twin raises, and would stand in traces
        asyncio.run(work())
        return
    thread = _Thread(lambda: asyncio.run(work()))
    thread.start()
    thread.join()
    thread.finish()
