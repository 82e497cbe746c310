"""`LocalRun`: one run under the supervision that a worker gives it, with memory in place of Redis and Postgres."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lanewise.authoring.memory import Artifact, Memory, MemoryRecords, UserValues
from shared import runs
from shared.context import UserExecutionContext
from shared.event_types import EventType
from shared.events import TERMINAL, Event, StoredEvent
from shared.ids import new_id
from shared.models import Run
from shared.outcomes import Completed, Failed, Lost, Outcome
from shared.states import ExecutionState
from worker.calls import Calls
from worker.live import LiveRun
from worker.supervise import Supervisor
from worker.zygote_client import SandboxProcess

GRACE_S = 5.0  # as LANEWISE_CANCEL_GRACE_S is by itself

Json = dict[str, Any]
Put = Callable[[Json, float], bool]


@dataclass(frozen=True)
class Order:
    """What is to be run, for whom.

    Args:
        agent: its name.
        input: JSON.
        time_limit_s: running time, seconds.
        user_id: whose run it is.
        thread_id: of a thread that goes on; None makes a new one.
        run_id: of a run that goes on after a lost attempt; None makes a new one.
        attempt: 1 unless it goes on.
        after_seq: the `run_seq` of its last event, 0 unless it goes on.
        granted: names of tools that the user has a grant for.
    """

    agent: str
    input: Any
    time_limit_s: float
    user_id: str = "author"
    thread_id: str | None = None
    run_id: str | None = None
    attempt: int = 1
    after_seq: int = 0
    granted: Sequence[str] = ()


class LocalRun:
    """One attempt of one run. Close it with `live.close()`.

    Args:
        memory: what its agents keep is kept there.
        put: is handed each event in its public form; False means that it has to wait, as at most its second argument
            in seconds.
    """

    def __init__(self, order: Order, memory: Memory, put: Put) -> None:
        self.context = UserExecutionContext.from_request(
            order.user_id, order.thread_id or new_id(), order.run_id or new_id()
        )
        self.row = Run(
            user_id=order.user_id, id=self.context.run_id, thread_id=self.context.thread_id, agent=order.agent,
            input=order.input, attempt=order.attempt, time_limit_s=order.time_limit_s, status=ExecutionState.RUNNING,
            context=self.context.to_dict(), correlation_id=self.context.correlation_id, meta={}, usage={}, ran_s=0.0,
            progress=0.0, progress_note="", last_run_seq=order.after_seq, max_attempts=1, lost_attempts=0,
            created_at=datetime.now(UTC), started_at=datetime.now(UTC),
        )  # fmt: skip
        self.live = LiveRun(self.row, order.granted)
        self.trace = ""  # where the agent raised, for its author
        self.retry: Lost | None = None  # what it asked for, if it raised `Retry`
        self._put = put
        self._memory = memory
        self._records = MemoryRecords(memory, self.row)
        self._calls = Calls(UserValues(memory, order.user_id), self._records)

    def supervise(self, sandbox: SandboxProcess, kill: Callable[[int], None], grace_s: float = GRACE_S) -> None:
        """Sees the run through; afterwards `view()` says how it ended.

        Args:
            sandbox: the other end, which waits for its start frame.
            kill: sends it a signal.
            grace_s: seconds between asking it to end and SIGTERM.
        """
        supervisor = Supervisor(
            self.live, sandbox, kill=kill, put_event=self._event, answer_call=self._calls.answer, grace_s=grace_s
        )
        self._tell(EventType.RUN_STARTED, {"attempt": self.row.attempt})
        try:
            outcome = supervisor.run(self._start_frame())
        finally:
            supervisor.close()
        self.trace = supervisor.trace
        if isinstance(outcome, Lost):  # whoever asked it to end and then ended it wanted just that
            outcome = self.live.asked_to_end or outcome
        if isinstance(outcome, Lost) and outcome.type == "retry":
            self.retry = outcome
        self._end(outcome)

    def view(self) -> Json:
        """Returns the run as REST gives it."""
        return runs.run_view(self.row)

    @property
    def artifacts(self) -> Mapping[str, Artifact]:
        """What it has saved, by name."""
        return dict(self._memory.artifacts.get((self.row.user_id, self.row.id), {}))

    def _start_frame(self) -> Json:
        return {
            "t": "start",
            "context": self.row.context,
            "agent": self.row.agent,
            "input": self.row.input,
            "granted": list(self.live.granted),
            "steps": self._records.step_names(),
            "time_left_s": self.row.time_limit_s,
            "database_url": None,
            "database_ports": (),
            "database_token": "",
        }

    def _end(self, outcome: Outcome) -> None:
        ended = Failed(outcome.type, outcome.message, retryable=True) if isinstance(outcome, Lost) else outcome
        self.row.status = ended.state
        self.row.error = runs.error_of(self.row, ended)
        self.row.output = ended.output if isinstance(ended, Completed) else None
        self.row.usage = self._memory.usage.get((self.row.user_id, self.row.id), {})
        self.row.finished_at = datetime.now(UTC)
        self._tell(TERMINAL[ended.state], {"error": self.row.error} if self.row.error else {})

    def _tell(self, kind: EventType, data: Json) -> None:
        event = Event(self.row.user_id, self.row.id, self.row.attempt, kind, self.row.agent, data)
        while not self._event(event, 0.2):
            pass

    def _event(self, event: Event, timeout_s: float) -> bool:
        number, row = self.row.last_run_seq + 1, self.row
        stored = StoredEvent(event, number, number, row.thread_id, row.correlation_id, datetime.now(UTC))
        if not self._put(stored.view(), timeout_s):
            return False
        row.last_run_seq = number
        if event.type == EventType.AGENT_PROGRESS:
            row.progress = event.data.get("run_fraction", event.data["fraction"])
            row.progress_note = event.data.get("note", "")
        return True
