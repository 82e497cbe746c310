"""What runs without a fleet keep, in this process, as Redis and Postgres keep it for a worker: with the same limits."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared.errors import QuotaError, StateConflictError
from shared.models import Run
from shared.records import FULL, MAX_ARTIFACTS, MAX_ARTIFACTS_BYTES, MAX_STEPS, MAX_STEPS_BYTES
from worker.calls import FULL_STORE, MAX_VALUES

# Values are kept as JSON text, as the stores keep them: what an agent goes on changing is not changed here.


@dataclass(frozen=True)
class Artifact:
    """A file that a run saved."""

    name: str
    content_type: str
    content: bytes


@dataclass
class Memory:
    """Everything that users, their threads and runs keep.

    Args:
        clock: seconds that never go back, for the time to live of values; a test brings its own.
    """

    clock: Callable[[], float] = time.monotonic
    values: dict[tuple[str, str], tuple[float, str]] = field(default_factory=dict)
    steps: dict[tuple[str, str], dict[str, str]] = field(default_factory=dict)
    states: dict[tuple[str, str, str, str], tuple[int, str]] = field(default_factory=dict)
    savers: dict[tuple[str, str, str, str], str] = field(default_factory=dict)
    artifacts: dict[tuple[str, str], dict[str, Artifact]] = field(default_factory=dict)
    usage: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


class UserValues:
    """`run.store` of one user: a `RedisManager`."""

    def __init__(self, memory: Memory, user_id: str) -> None:
        self._memory = memory
        self._user_id = user_id

    def get(self, key: str) -> Any:
        """Returns the value, None if there is none or its time is up."""
        until, text = self._memory.values.get((self._user_id, key), (0.0, "null"))
        return json.loads(text) if self._memory.clock() < until else None

    def set(self, key: str, value: Any, ttl_s: float) -> None:
        """Keeps a JSON value for `ttl_s` seconds.

        Raises:
            QuotaError: the user has 1,000 values.
        """
        now = self._memory.clock()
        with self._memory.lock:
            own = {
                name
                for (user_id, name), (until, _) in self._memory.values.items()
                if user_id == self._user_id and now < until
            }
            if len(own - {key}) >= MAX_VALUES:
                raise QuotaError(FULL_STORE)
            self._memory.values[self._user_id, key] = (now + ttl_s, json.dumps(value))


class MemoryRecords:
    """The `RunRecords` of one run.

    Args:
        run: whose records these are.
    """

    def __init__(self, memory: Memory, run: Run) -> None:
        self._memory = memory
        self._run = run
        self._key = (run.user_id, run.id)

    def step_names(self) -> list[str]:
        """Returns the names of the steps that were recorded."""
        return list(self._memory.steps.get(self._key, {}))

    def load_step(self, name: str) -> list[Any]:
        """Returns the recorded result of a step in a list, which is empty if there is none."""
        steps = self._memory.steps.get(self._key, {})
        return [json.loads(steps[name])] if name in steps else []

    def record_step(self, name: str, result: Any) -> bool:
        """Records the result of a step; False if there was one, which stays.

        Raises:
            QuotaError: the run has 1,000 steps, or would have more than 64 MiB of results.
        """
        with self._memory.lock:
            steps = self._memory.steps.setdefault(self._key, {})
            kept = json.dumps(result, ensure_ascii=False)
            size = sum(len(text.encode()) for text in (*steps.values(), kept))
            if name in steps:
                return False
            if len(steps) >= MAX_STEPS or size > MAX_STEPS_BYTES:
                raise QuotaError(FULL)
            steps[name] = kept
            return True

    def load_state(self, agent: str, scope: str) -> tuple[int, Any]:
        """Returns version and value; 0 and None if nothing was saved."""
        version, text = self._memory.states.get(self._state(agent, scope), (0, "null"))
        return version, json.loads(text)

    def save_state(self, agent: str, scope: str, expected: int, value: Any, token: str) -> int:
        """Saves a value over version `expected` and returns the new one.

        Raises:
            StateConflictError: another run of the thread has saved since.
        """
        with self._memory.lock:
            version, _ = self._memory.states.get(self._state(agent, scope), (0, ""))
            if version == expected + 1 and self._memory.savers.get(self._state(agent, scope)) == token:
                return version
            if version != expected:
                raise StateConflictError(
                    f"the {scope} state of {agent!r} is not at version {expected} any more: load it again"
                )
            self._memory.states[self._state(agent, scope)] = (version + 1, json.dumps(value))
            self._memory.savers[self._state(agent, scope)] = token
            return version + 1

    def save_artifact(self, name: str, content_type: str, content: bytes) -> None:
        """Saves a file, over one of the same name.

        Raises:
            QuotaError: more than 32 files or 16 MiB in one run.
        """
        with self._memory.lock:
            saved = self._memory.artifacts.setdefault(self._key, {})
            others = [artifact for artifact in saved.values() if artifact.name != name]
            if len(others) >= MAX_ARTIFACTS:
                raise QuotaError(f"the run has {len(others)} artifacts, which is the limit")
            size = sum(len(artifact.content) for artifact in others) + len(content)
            if size > MAX_ARTIFACTS_BYTES:
                raise QuotaError(
                    f"the artifacts of the run would have {size} bytes; the limit is {MAX_ARTIFACTS_BYTES}"
                )
            saved[name] = Artifact(name, content_type, content)

    def add_usage(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Adds one request to a model to what the run has used."""
        with self._memory.lock:
            before = self._memory.usage.get(self._key, {})
            self._memory.usage[self._key] = {
                "model": model,
                "requests": before.get("requests", 0) + 1,
                "input_tokens": before.get("input_tokens", 0) + input_tokens,
                "output_tokens": before.get("output_tokens", 0) + output_tokens,
            }

    def _state(self, agent: str, scope: str) -> tuple[str, str, str, str]:
        return self._run.user_id, self._run.thread_id, agent, self._run.id if scope == "run" else ""
