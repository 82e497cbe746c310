"""Runs as a state machine: whatever is tried in whatever order, each has one history and at most one end."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from shared import events, lanes, runs
from shared.event_types import EventType
from shared.events import Event, append
from shared.ids import new_id
from shared.messages import RunMessage
from shared.models import Run
from shared.outcomes import Lost, Outcome
from shared.services import Services
from shared.slots import run_of
from shared.states import ENDS
from tests import steps
from tests.services import an_agent, submit_run

TERMINAL = {f"run_{state}" for state in ENDS}


@dataclass
class Expected:
    """What a run must look like by the table of transitions alone."""

    max_attempts: int
    status: str = "queued"
    granted: bool = False
    attempt: int = 0
    lost: int = 0
    intent: bool = False
    log: list[str] = field(default_factory=lambda: ["run_queued"])

    def end(self, status: str) -> None:
        self.status = status
        self.log.append(f"run_{status}")


class RunLife(RuleBasedStateMachine):
    """Each example is a user of its own, over the services of the test."""

    services: ClassVar[Services]
    submitted = Bundle[Run]("submitted")
    granted = Bundle[RunMessage]("granted")
    claimed = Bundle[Run]("claimed")

    def __init__(self) -> None:
        super().__init__()
        self.user_id = f"user-{new_id()}"
        self.database = self.services.database
        self.expected: dict[str, Expected] = {}

    @rule(target=submitted, max_attempts=st.integers(1, 2))
    def submit(self, max_attempts: int) -> Run:
        run = submit_run(self.services, self.user_id, agent=an_agent(max_attempts=max_attempts))
        self.expected[run.id] = Expected(max_attempts)
        return run

    @rule(target=granted)
    def grant_the_oldest(self) -> MultipleResults[RunMessage]:
        with self.database.user_session(self.user_id) as session:
            members = lanes.next_runs(session, self.user_id, 1).members
            answer = lanes.grant(session, self.user_id, members)
        parked = [run_of(name) for name in members]
        waiting = [key for key, run in self.expected.items() if run.status == "queued" and not run.granted]
        assert [message.context.run_id for message, _queue in answer] == waiting[:1] == parked
        for message, _queue in answer:
            run = self.expected[message.context.run_id]
            run.granted = True
            assert message.attempt == run.attempt
        return multiple(*(message for message, _queue in answer))

    @rule(message=granted)
    def park(self, message: RunMessage) -> None:
        with self.database.user_session(self.user_id) as session:
            lanes.park(session, message)
        run = self.expected[message.context.run_id]
        if (run.status, run.attempt) == ("queued", message.attempt):
            run.granted = False

    @rule(target=claimed, message=granted)
    def claim(self, message: RunMessage) -> MultipleResults[Run]:
        run = self.expected[message.context.run_id]
        legal = run.status == "queued" and run.granted and run.attempt == message.attempt
        answer = steps.claim(self.database, message)
        assert (answer is not None) == legal
        if answer is None:
            return multiple()
        run.status, run.attempt = "running", run.attempt + 1
        run.log.append("run_started")
        return multiple(answer)

    @rule(owner=claimed, count=st.integers(1, 3))
    def emit(self, owner: Run, count: int) -> None:
        batch = [Event(owner.user_id, owner.id, owner.attempt, EventType.AGENT_THINKING, "echo")] * count
        with self.database.system_session() as session:
            answer = append(session, batch).stored
        assert len(answer) == (count if self.owns(owner) else 0)
        self.expected[owner.id].log += ["agent_thinking"] * len(answer)

    @rule(owner=claimed, outcome=st.sampled_from([*steps.ENDINGS, steps.LOST, steps.DRAINED]))
    def finish(self, owner: Run, outcome: Outcome) -> None:
        legal = self.owns(owner)
        assert (steps.finish(self.database, owner, outcome) is not None) == legal
        if legal:
            self.expect_end(self.expected[owner.id], outcome)

    @rule(run=submitted)
    def cancel(self, run: Run) -> None:
        assert steps.cancel(self.database, run) is not None
        expected = self.expected[run.id]
        if expected.status == "queued":
            expected.end("cancelled")
        elif expected.status == "running":
            expected.intent = True

    def owns(self, owner: Run) -> bool:
        run = self.expected[owner.id]
        return (run.status, run.attempt) == ("running", owner.attempt)

    def expect_end(self, run: Expected, outcome: Outcome) -> None:
        if not isinstance(outcome, Lost):
            run.end(outcome.state)
        elif run.intent:
            run.end("cancelled")
        elif run.lost + outcome.counted == run.max_attempts:
            run.end("failed")
        else:
            run.status, run.granted, run.lost = "queued", False, run.lost + outcome.counted
            run.log.append("run_recovering")

    @invariant()
    def the_database_agrees(self) -> None:
        with self.database.user_session(self.user_id) as session:
            stored = {key: runs.find(session, self.user_id, key) for key in self.expected}
            log = events.read_stream(session, self.user_id, 0, 10_000)
            assert events.head(session, self.user_id) == len(log)
        assert [event["seq"] for event in log] == list(range(1, len(log) + 1))
        for key, expected in self.expected.items():
            run = stored[key]
            assert run is not None
            assert (run.status, run.attempt, run.lost_attempts) == (
                expected.status,
                expected.attempt,
                expected.lost,
            )
            mine = [event for event in log if event["run_id"] == key]
            assert [event["type"] for event in mine] == expected.log
            assert [event["run_seq"] for event in mine] == list(range(1, run.last_run_seq + 1))
            ends = [event["run_seq"] for event in mine if event["type"] in TERMINAL]
            assert ends == ([run.last_run_seq] if run.status in ENDS else [])


def test_the_life_of_runs(services: Services) -> None:
    few = hypothesis_settings(max_examples=20, stateful_step_count=25)
    run_state_machine_as_test(type("BoundRunLife", (RunLife,), {"services": services}), settings=few)
