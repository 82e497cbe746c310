"""What a unit test injects into an engine in place of a sandbox's link: each part keeps what it was handed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy.orm import Session

from shared.context import UserExecutionContext
from shared.errors import StateConflictError
from worker.authoring import Agent
from worker.engine import Infrastructure
from worker.registry import AgentClassRegistry


class RecordingBridge:
    """Keeps events as `(type, agent, data, context)`."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, dict[str, Any], UserExecutionContext]] = []

    def send_event(self, context: UserExecutionContext, kind: str, agent: str, data: dict[str, Any]) -> None:
        self.sent.append((str(kind), agent, data, context))

    @property
    def kinds(self) -> list[str]:
        """The types, in order."""
        return [kind for kind, *_ in self.sent]

    def data(self, kind: str) -> list[dict[str, Any]]:
        """The data of each event of one type, in order."""
        return [data for found, _, data, _ in self.sent if found == kind]


class DictStore:
    """`run.store` in memory; nothing expires."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def get(self, key: str) -> Any:
        return self.values.get(key)

    def set(self, key: str, value: Any, ttl_s: float) -> None:
        del ttl_s
        self.values[key] = value


class DictRecords:
    """The records of a run in memory; what was called is counted."""

    def __init__(self) -> None:
        self.steps: dict[str, Any] = {}
        self.states: dict[tuple[str, str], tuple[int, Any]] = {}
        self.artifacts: dict[str, tuple[str, bytes]] = {}
        self.usage: list[tuple[str, int, int]] = []
        self.loads: list[str] = []

    def load_step(self, name: str) -> list[Any]:
        self.loads.append(name)
        return [self.steps[name]] if name in self.steps else []

    def record_step(self, name: str, result: Any) -> bool:
        return self.steps.setdefault(name, result) is result

    def load_state(self, agent: str, scope: str) -> tuple[int, Any]:
        return self.states.get((agent, scope), (0, None))

    def save_state(self, agent: str, scope: str, expected: int, value: Any, token: str) -> int:
        version, _ = self.load_state(agent, scope)
        if version != expected:
            raise StateConflictError("somebody was faster")
        self.states[agent, scope] = (version + 1, value)
        return version + 1

    def save_artifact(self, name: str, content_type: str, content: bytes) -> None:
        self.artifacts[name] = (content_type, content)

    def add_usage(self, model: str, input_tokens: int, output_tokens: int) -> None:
        self.usage.append((model, input_tokens, output_tokens))


class UnboundDatabase:
    """Opens SQLAlchemy sessions that have no engine, and counts."""

    def __init__(self) -> None:
        self.opened: list[UserExecutionContext] = []
        self.closed = 0

    @contextmanager
    def session(self, context: UserExecutionContext) -> Iterator[Session]:
        self.opened.append(context)
        with Session() as session:
            yield session

    def close(self) -> None:
        self.closed += 1


def registry_of(*agents: type[Agent]) -> AgentClassRegistry:
    """Returns a frozen registry of these classes."""
    registry = AgentClassRegistry()
    for agent in agents:
        registry.register(agent)
    registry.freeze()
    return registry


def infrastructure(*agents: type[Agent]) -> Infrastructure:
    """Returns what an engine needs, with fresh parts."""
    return Infrastructure(registry_of(*agents), UnboundDatabase(), DictStore(), DictRecords(), RecordingBridge())
