"""`ToolScope`: what a tool may use. A call that was given up can use none of it any more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any

from shared.context import UserExecutionContext
from worker.emitter import UserWebSocketEmitter
from worker.interfaces import EventBridge, RedisManager
from worker.toolcalls import ToolCall, ToolCancelledError

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class ToolScope:
    """What a tool may use, for the run it was made for.

    When a call is given up (its time limit, or the run was cancelled) a plain tool's thread may still go on: from then
    on everything here raises in it, an open transaction is rolled back, and no event of it appears.

    Args:
        context: of the run.
        bridge: the way out for events.
        agent: the name under which they appear.
        store: small values that outlive the run for a while.
        open_session: how to open a database session.
        is_cancelled: whether the user asked to cancel the run.

    Attributes:
        emit: the run's emitter, for progress.
    """

    def __init__(  # noqa: PLR0913 - each one a thing that the tool is handed
        self,
        context: UserExecutionContext,
        bridge: EventBridge,
        agent: str,
        *,
        store: RedisManager,
        open_session: Callable[[], AbstractContextManager[Session]],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self.context = context
        self.emit = UserWebSocketEmitter(context, _GuardedBridge(bridge), agent)
        self._store = store
        self._open_session = open_session
        self._is_cancelled = is_cancelled

    @property
    def store(self) -> RedisManager:
        """`get(key)` and `set(key, value, ttl_s)`: small values of this user's."""
        _check()
        return self._store

    @property
    def cancelled(self) -> bool:
        """True once nobody waits for the result: a plain tool that loops should look, tidy up and return."""
        return _given_up() or self._is_cancelled()

    @contextmanager
    def db(self) -> Iterator[Session]:
        """Yields a session in a transaction of its own: `with scope.db() as session`. It sees only the user's rows.

        Raises:
            ToolCancelledError: the call was given up, before or meanwhile; nothing is committed then.
        """
        _check()
        with self._open_session() as session:
            yield session
            _check()


class _GuardedBridge:
    def __init__(self, bridge: EventBridge) -> None:
        self._bridge = bridge

    def send_event(self, context: UserExecutionContext, kind: str, agent: str, data: dict[str, Any]) -> None:
        _check()
        self._bridge.send_event(context, kind, agent, data)


def _given_up() -> bool:
    call = ToolCall.current.get()
    return call is not None and call.given_up


def _check() -> None:
    if _given_up():
        raise ToolCancelledError("the call was given up: its result is not wanted any more")
