"""`StateManager`: what an agent keeps beyond this moment. Steps of its run, which are not done twice, and memory.

Nothing is kept here: the runner stores it, fenced by the attempt, so that a superseded attempt cannot write.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from shared.errors import InvalidError, QuotaError, StateConflictError, SupersededError, UnavailableError
from shared.ids import new_id
from shared.jsonvalue import check_json, clean_json
from worker.calls import MAX_RECORD_BYTES, MAX_STATE_BYTES, MAX_STEP_NAME
from worker.interfaces import RunRecords

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

T = TypeVar("T")
Scope = Literal["thread", "run"]
STEP_NAME = re.compile(r"[^/]{1,100}")
MAX_STEP_BYTES = 1024 * 1024
PATIENCE_S = 60.0  # with a store that is away; the worker stops its sandboxes after a lease, usually earlier
PAUSE_S = 0.25
UPDATE_TRIES = 10


class _KnownError(Exception):
    """An earlier commit came through after all: what was just written must be undone."""


class Records:
    """The records of one run, seen from its sandbox, and the names that are recorded. Safe to use from any thread.

    Args:
        kept_by: answers, at the other end.
        recorded: names of the steps that earlier attempts recorded.
        is_cancelled: ends the patience with a store that is away.
        open_session: of the run's database, for `db_step`.
    """

    def __init__(
        self,
        kept_by: RunRecords,
        recorded: Iterable[str],
        is_cancelled: Callable[[], bool],
        open_session: Callable[[], AbstractContextManager[Session]],
    ) -> None:
        self.kept_by = kept_by
        self.recorded = set(recorded)
        self.open_session = open_session
        self._is_cancelled = is_cancelled

    def patiently(self, call: Callable[[], T]) -> T:
        """Returns what the call returns; tries for a while if a store is away, so the call must stand repeating."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            try:
                return call()
            except UnavailableError:
                if time.monotonic() > give_up or self._is_cancelled():
                    raise
            time.sleep(PAUSE_S)

    def save_artifact(self, name: str, content_type: str, content: bytes) -> None:
        """Saves a file for the run's user."""
        self.patiently(lambda: self.kept_by.save_artifact(name, content_type, content))

    def add_usage(self, model: str, input_tokens: int, output_tokens: int) -> None:
        """Adds one request to what the run has used; it may count twice if the answer of a commit is lost."""
        self.patiently(lambda: self.kept_by.add_usage(model, input_tokens, output_tokens))

    def load(self, name: str) -> list[Any]:
        """Returns the recorded result of a step in a list, which is empty if there is none."""
        return self.patiently(lambda: self.kept_by.load_step(name)) if name in self.recorded else []

    def record(self, name: str, result: Any) -> Any:
        """Records a result and returns what is recorded: another one if an earlier attempt's commit came through."""
        kept = result
        if not self.patiently(lambda: self.kept_by.record_step(name, result)):
            (kept,) = self.patiently(lambda: self.kept_by.load_step(name))
        self.recorded.add(name)
        return kept


class StateManager:
    """`run.state` of one agent in one run.

    Args:
        records: of the run.
        agent: whose memory it is.
        prefix: of the names of its steps, when it is a part of a workflow.
    """

    def __init__(self, records: Records, agent: str, prefix: str = "") -> None:
        self._records = records
        self._agent = agent
        self._prefix = prefix
        self._begun: set[str] = set()
        self._versions: dict[Scope, int] = {"thread": 0, "run": 0}

    def child(self, agent: str, name: str) -> StateManager:
        """Returns the state of an agent that does a part of this one's work."""
        return StateManager(self._records, agent, f"{self._prefix}{name}/")

    def load(self, scope: Scope = "thread") -> Any:
        """Returns what this agent saved, None if it saved nothing.

        Args:
            scope: `thread`: what its last run in this thread saved; `run`: what an earlier attempt of this run saved.
        """
        version, value = self._load(scope)
        self._versions[scope] = version
        return value

    def _load(self, scope: Scope) -> tuple[int, Any]:
        return self._records.patiently(lambda: self._records.kept_by.load_state(self._agent, scope))

    def save(self, value: Any, scope: Scope = "thread") -> None:
        """Saves a JSON value of at most 256 KiB over the one that was loaded.

        Raises:
            StateConflictError: it is not the newest any more (another run of the thread saved it), or was not loaded.
            TooLargeError: above the limit.
            InvalidError: not JSON.
        """
        self._versions[scope] = self._save(value, scope, self._versions[scope])

    def _save(self, value: Any, scope: Scope, expected: int) -> int:
        kept, token = _as_json("state", value, MAX_STATE_BYTES), new_id()
        call = self._records.kept_by.save_state
        return self._records.patiently(lambda: call(self._agent, scope, expected, kept, token))

    def update(self, function: Callable[[Any], Any], scope: Scope = "thread") -> Any:
        """Loads, has `function` make the new value of the old one, and saves; again if another run came between.

        Returns:
            the new value.

        Raises:
            StateConflictError: ten times.
        """
        tries = 0
        while True:
            version, before = self._load(scope)
            value = function(before)
            tries += 1
            try:
                self._versions[scope] = self._save(value, scope, version)
            except StateConflictError:
                if tries == UPDATE_TRIES:
                    raise
            else:
                return value

    @overload
    def step(
        self, name: str, function: Callable[..., Coroutine[Any, Any, T]], *arguments: Any
    ) -> Coroutine[Any, Any, T]: ...
    @overload
    def step(self, name: str, function: Callable[..., T], *arguments: Any) -> T: ...
    def step(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Does something once: calls the function and records its result, or returns what is recorded.

        The function may be called again if the run's sandbox died before the result was recorded.

        Args:
            name: 1 to 100 characters without `/`; one of its own for each step of the run.
            function: plain, or async: then the answer has to be awaited. Its result is JSON of at most 1 MiB.
            arguments: for the function.

        Returns:
            the result, as JSON has it (a tuple is a list), the first time too.

        Raises:
            InvalidError: a bad name, one that was used already, or a result that is not JSON.
            TooLargeError: a result above the limit.
            QuotaError: the run has 1,000 steps, or would have more than 64 MiB of results.
        """
        full = self._begin(name)
        if inspect.iscoroutinefunction(function):
            return self._step_async(full, function, arguments)
        if known := self._records.load(full):
            return known[0]
        result = function(*arguments)
        if inspect.isawaitable(result):
            if inspect.iscoroutine(result):
                result.close()
            raise InvalidError(
                f"step {name!r}: give the async function itself, and its arguments after it: "
                f"`await run.state.step({name!r}, function, argument)`"
            )
        return self._records.record(full, _as_json(f"result of step {name!r}", result))

    def db_step(self, name: str, function: Callable[[Session], Any]) -> Any:
        """Does something in the database once: what the function writes and the record are committed together.

        Args:
            name: as for `step`.
            function: given a session of the run's own; returns JSON. It may be called again, but what an earlier call
                wrote is then gone.

        Returns:
            the result.

        Raises:
            UnavailableError: the database is away for a minute.
            ConfigurationError: sandboxes have no database here.
            SupersededError: the attempt is over; nothing was written.
        """
        full = self._begin(name)

        def once() -> Any:
            known = self._records.load(full)
            self._records.recorded.add(full)  # as far as anybody knows: the answer to a commit can get lost
            return known[0] if known else self._commit(full, function)

        return self._records.patiently(once)

    async def recall(self, name: str) -> list[Any]:
        """Returns the recorded result of a step in a list, which is empty if there is none; for the orchestrator."""
        full = f"{self._prefix}{name}"
        return await asyncio.to_thread(self._records.load, full) if full in self._records.recorded else []

    async def record(self, name: str, result: Any) -> Any:
        """Records the result of a step and returns what is recorded; for the orchestrator."""
        kept = _as_json(f"result of step {name!r}", result, MAX_RECORD_BYTES)
        return await asyncio.to_thread(self._records.record, f"{self._prefix}{name}", kept)

    async def _step_async(self, full: str, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> Any:
        # In a thread, so that the loop goes on while the runner answers: other parts of a workflow may be at work.
        if full in self._records.recorded and (known := await asyncio.to_thread(self._records.load, full)):
            return known[0]
        result = _as_json(f"result of step {full!r}", await function(*arguments))
        return await asyncio.to_thread(self._records.record, full, result)

    def _commit(self, full: str, function: Callable[[Session], Any]) -> Any:
        try:
            with self._records.open_session() as session:
                return self._write(session, full, function)
        except _KnownError:
            return self._records.kept_by.load_step(full)[0]

    def _write(self, session: Session, full: str, function: Callable[[Session], Any]) -> Any:
        """Does the step and records it; raises whatever has to undo both."""
        from sqlalchemy import text  # noqa: PLC0415 - most sandboxes never need it

        result = _as_json(f"result of step {full!r}", function(session))
        values = {"name": full, "result": json.dumps(result, ensure_ascii=False)}
        answer = session.scalar(text("SELECT record_own_step(:name, CAST(:result AS json))"), values)
        if answer == "superseded":
            raise SupersededError("this attempt of the run is over: the step and what it wrote are undone")
        if answer == "full":
            raise QuotaError("the steps of a run are at most 1,000, with results of 64 MiB together")
        if answer == "known":
            raise _KnownError
        return result

    def _begin(self, name: str) -> str:
        if not isinstance(name, str) or not STEP_NAME.fullmatch(name) or not name.isprintable():
            raise InvalidError("a step's name must be 1 to 100 printable characters without '/'")
        full = f"{self._prefix}{name}"
        if len(full) > MAX_STEP_NAME:
            raise InvalidError(f"step {full!r} has more than {MAX_STEP_NAME} characters with its workflow's names")
        if full in self._begun:
            raise InvalidError(f"there was a step {name!r} already: give each step of a run a name of its own")
        self._begun.add(full)
        return full


def _as_json(field: str, value: Any, limit: int = MAX_STEP_BYTES) -> Any:
    """Returns a copy as JSON has it, so that it is now what it will be when it is read back."""
    return json.loads(json.dumps(check_json(clean_json(value), field, limit)))
