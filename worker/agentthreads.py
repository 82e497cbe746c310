"""`AgentThreads`: the threads that plain agents run in, so that the event loop goes on meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from shared.context import UserExecutionContext
    from worker.authoring import Agent, AgentExecutionContext

MAX_AT_ONCE = 16  # as many as tool calls: each thread takes of the sandbox's address space

Outcome = tuple[Any, BaseException | None]


class AgentThreads:
    """Runs the plain agents of a run: other agents of a workflow go on beside them, and they may call async tools.

    Not an executor's threads: how many those are depends on the machine, and one that waits for its turn there begins
    even if it was cancelled. Here 16 of an event loop run at once; a plain agent that runs a workflow of its own does
    so in a loop of its own, so that what it waits for never waits for it.
    """

    def __init__(self) -> None:
        self._turns: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Semaphore] = WeakKeyDictionary()

    async def execute(self, agent: Agent, context: UserExecutionContext, run: AgentExecutionContext) -> Any:
        """Returns what the agent returned; when cancelled, waits for it to end.

        Raises:
            CancelledError: also if the run was cancelled before the agent's turn: it does not begin then.
            RuntimeError: no further thread can be started.
            BaseException: whatever the agent raised.
        """
        async with self._turns.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(MAX_AT_ONCE)):
            if run.cancelled:
                raise asyncio.CancelledError
            ended = asyncio.wrap_future(_begin(lambda: agent.execute(context, run)))
            try:
                value, error = await asyncio.shield(ended)
            except asyncio.CancelledError:
                # A thread cannot be ended. It is told by `run.cancelled` and waited for: nothing may go on beside what
                # follows.
                run.stop()
                while not ended.done():
                    with contextlib.suppress(asyncio.CancelledError):
                        await asyncio.wait({ended})
                raise
        if error is not None:
            raise error
        return value


def _begin(work: Callable[[], Any]) -> Future[Outcome]:
    """Starts a thread; a daemon, for the end of a loop or of the interpreter must not wait for one that hangs."""
    outcome: Future[Outcome] = Future()
    outcome.set_running_or_notify_cancel()  # from here on nobody can cancel it, only cease to wait
    context = contextvars.copy_context()

    def call() -> None:
        # A value, never an exception of the future: some, raised into one, would be lost there.
        try:
            result: Outcome = (context.run(work), None)
        except BaseException as error:  # noqa: BLE001 - carried over to whoever waits
            result = (None, error)
        outcome.set_result(result)

    threading.Thread(target=call, name="lanewise-agent", daemon=True).start()
    return outcome
