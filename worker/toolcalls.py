"""`ToolCalls`: the tool calls of a run that are under way: how many at once, for how long, and what ends them."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import threading
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

from shared.context import UserExecutionContext
from worker.authoring import Tool, ToolError
from worker.toolthreads import ToolThreads

MAX_AT_ONCE = 16
MAX_WAITING = 1000
MAX_WAIT_S = 60.0


class ToolCancelledError(ToolError):
    """The call was cancelled, or given up: nobody waits for its result any more."""

    code = "cancelled"


class ToolTimeoutError(ToolError):
    """The tool took longer than its `time_limit_s`."""

    code = "timed_out"


class TooManyCallsError(ToolError):
    """The run has too many tool calls under way."""

    code = "too_many_calls"


class ToolCall:
    """One call. Code that runs in it finds it by `ToolCall.current`, in the tool's own thread too."""

    __slots__ = ("given_up",)
    current: ContextVar[ToolCall | None] = ContextVar("lanewise_tool_call", default=None)

    def __init__(self) -> None:
        self.given_up = False


class ToolCalls:
    """Runs tools. Safe to use from any thread and any event loop.

    Args:
        at_once: calls at once; further ones wait for their turn, in their order, 60 seconds at most.
    """

    def __init__(self, at_once: int = MAX_AT_ONCE) -> None:
        self._lock = threading.Lock()
        self._free = at_once
        self._at_once = at_once
        self._waiting: deque[Future[None]] = deque()
        self._threads = ToolThreads()
        self._blocking: set[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any]]] = set()
        self._cancelled = False

    async def run(self, tool: Tool, context: UserExecutionContext, parameters: Any) -> Any:
        """Returns what the tool returned.

        An async tool is cancelled at its time limit. A thread cannot be: a plain tool is given up then, so that
        whatever its `scope` offers refuses from there on, and it keeps its place among the calls until it really ends.

        Raises:
            ToolTimeoutError: the tool's time limit.
            TooManyCallsError: no turn within 60 seconds, or 1,000 calls wait already.
            Exception: whatever the tool raised.
        """
        await self._take_turn()
        call = ToolCall()
        is_async = inspect.iscoroutinefunction(tool.run)
        run = _run_here if is_async else self._run_in_thread
        try:
            async with asyncio.timeout(tool.time_limit_s) as limit:
                return await run(call, tool, context, parameters)
        except TimeoutError:
            if limit.expired():
                raise ToolTimeoutError(f"the tool reached its time limit of {tool.time_limit_s:g} s") from None
            raise
        finally:
            call.given_up = True
            if is_async:
                self._end_turn()

    def wait_for(self, call: Coroutine[Any, Any, Any]) -> Any:
        """Runs a call to its end and returns its result, blocking this thread; `cancel` interrupts it.

        Raises:
            ToolCancelledError: it was interrupted, or `cancel` came before it.
        """
        coroutine = self._interruptible(call)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(coroutine)
        # This thread has a loop that is busy with us: the call gets a thread of its own.
        outcome: Future[Any] = Future()
        self._threads.run(lambda: _outcome(lambda: asyncio.run(coroutine)), outcome.set_result)
        return _value(outcome.result())

    def cancel(self) -> None:
        """Interrupts blocking calls, those to come too; awaited ones end with the task that awaits them."""
        with self._lock:
            self._cancelled = True
            for loop, task in self._blocking:
                with contextlib.suppress(RuntimeError):  # that loop has just been closed
                    loop.call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """Lets go of the threads; one in which a tool still runs ends with that."""
        self._threads.close()

    async def _interruptible(self, call: Coroutine[Any, Any, Any]) -> Any:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - whoever runs a coroutine in a loop has one
        entry = (asyncio.get_running_loop(), task)
        with self._lock:
            cancelled = self._cancelled
            self._blocking.add(entry)
        try:
            if cancelled:
                call.close()
                raise ToolCancelledError("the run was cancelled")
            return await call
        except asyncio.CancelledError:
            raise ToolCancelledError("the call was cancelled") from None
        finally:
            with self._lock:
                self._blocking.discard(entry)

    async def _run_in_thread(self, call: ToolCall, tool: Tool, context: UserExecutionContext, parameters: Any) -> Any:
        outcome: Future[Any] = Future()
        outcome.set_running_or_notify_cancel()  # from here on nobody can cancel it, only cease to wait
        run = contextvars.copy_context().run

        def work() -> Any:
            ToolCall.current.set(call)
            return _outcome(lambda: tool.run(context, parameters))

        def done(result: Any) -> None:
            self._end_turn()
            outcome.set_result(result)

        try:
            self._threads.run(lambda: run(work), done)
        except RuntimeError as error:
            self._end_turn()
            raise ToolError(f"the sandbox cannot have another thread: {error}") from None
        return _value(await asyncio.wrap_future(outcome))

    async def _take_turn(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            if len(self._waiting) >= MAX_WAITING:
                raise TooManyCallsError(f"{MAX_WAITING} tool calls wait already; the limit is {self._at_once} at once")
            turn: Future[None] = Future()
            self._waiting.append(turn)
        try:
            async with asyncio.timeout(MAX_WAIT_S):
                await asyncio.wrap_future(turn)
        except BaseException as error:
            with self._lock, contextlib.suppress(ValueError):
                self._waiting.remove(turn)
            if not turn.cancel():  # it came at this very moment
                self._end_turn()
            if isinstance(error, TimeoutError):
                raise TooManyCallsError(
                    f"no turn within {MAX_WAIT_S:g} s: the limit is {self._at_once} tool calls at once"
                ) from None
            raise

    def _end_turn(self) -> None:
        with self._lock:
            while self._waiting:
                turn = self._waiting.popleft()
                if turn.set_running_or_notify_cancel():
                    break
            else:
                self._free += 1
                return
        turn.set_result(None)


async def _run_here(call: ToolCall, tool: Tool, context: UserExecutionContext, parameters: Any) -> Any:
    token = ToolCall.current.set(call)
    try:
        return await tool.run(context, parameters)
    finally:
        ToolCall.current.reset(token)


def _outcome(work: Callable[[], Any]) -> tuple[Any, Exception | None]:
    """Returns `(value, error)`: some exceptions, raised into a future, would be lost there."""
    try:
        return work(), None
    except Exception as error:  # noqa: BLE001 - carried over to the waiting thread
        return None, error
    except BaseException as error:  # noqa: BLE001 - a tool that calls sys.exit() ends itself, not the run
        return None, ToolError(f"the tool raised {type(error).__name__}")


def _value(outcome: tuple[Any, Exception | None]) -> Any:
    value, error = outcome
    if error is not None:
        raise error
    return value
