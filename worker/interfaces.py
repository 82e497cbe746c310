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
        """Keeps a JSON value of at most 64 KiB for `ttl_s` seconds; raises `QuotaError` if the user has too many."""
        ...


@runtime_checkable
class RunRecords(Protocol):
    """Keeps what a run and its thread remember. The runner's is Postgres; a run without a fleet has one in memory.

    `UnavailableError` from any of these means: try again, for a while. Names and sizes were checked before.
    """

    def load_step(self, name: str) -> list[Any]:
        """Returns the recorded result of a step in a list, which is empty if there is none."""
        ...

    def record_step(self, name: str, result: Any) -> bool:
        """Records the result of a step; False if there was one, which stays."""
        ...

    def load_state(self, agent: str, scope: str) -> tuple[int, Any]:
        """Returns version and value; 0 and None if nothing was saved. `scope` is `thread` or `run`."""
        ...

    def save_state(self, agent: str, scope: str, expected: int, value: Any, token: str) -> int:
        """Saves a value over version `expected` and returns the new one, or raises `StateConflictError`.

        A save that is repeated with its `token`, because its answer was lost, is answered like the first time.
        """
        ...

    def save_artifact(self, name: str, content_type: str, content: bytes) -> None:
        """Saves a file for the run's user, over one of the same name."""
        ...

    def add_usage(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Adds one request to a model to what the run has used."""
        ...


@runtime_checkable
class EventBridge(Protocol):
    """The way out for events."""

    def send_event(self, context: UserExecutionContext, kind: str, agent: str, data: dict[str, Any]) -> None:
        """Hands the event over before it returns."""
        ...
