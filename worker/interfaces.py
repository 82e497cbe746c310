"""The formal interfaces of what is injected into an engine. Tests and other homes of a run bring their own."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from shared.context import UserExecutionContext

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


@runtime_checkable
class DatabaseSessionManager(Protocol):
    """Opens request-scoped sessions."""

    def session(self, context: UserExecutionContext) -> AbstractContextManager[Session]:
        """Returns a session in a transaction of its own that sees only the context's user."""
        ...

    def close(self) -> None:
        """Closes what was opened."""
        ...


@runtime_checkable
class RedisManager(Protocol):
    """Keeps small values of one user's for a while (`run.store`)."""

    def get(self, key: str) -> Any:
        """Returns the value, None if there is none or its time is up."""
        ...

    def set(self, key: str, value: Any, ttl_s: float) -> None:
        """Keeps a JSON value of at most 64 KiB for `ttl_s` seconds."""
        ...


@runtime_checkable
class EventBridge(Protocol):
    """The way out for events."""

    def send_event(self, context: UserExecutionContext, kind: str, agent: str, data: dict[str, Any]) -> None:
        """Hands the event over before it returns."""
        ...
