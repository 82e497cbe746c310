from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from shared.context import UserExecutionContext
from shared.errors import ConfigurationError, InvalidContextError, UnknownAgentError
from tests.parts import registry_of
from tests.services import a_context
from worker.authoring import Agent, AgentRun
from worker.factory import HISTORY, AgentInstanceFactory


class Count(Agent):
    """Counts."""

    name = "count"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        return {}


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def factory(clock: Clock) -> AgentInstanceFactory:
    return AgentInstanceFactory(registry_of(Count), clock)


def noting(notes: list[str], note: str, error: BaseException | None = None) -> Callable[[], None]:
    def callback() -> None:
        notes.append(note)
        if error is not None:
            raise error

    return callback


def test_a_context_is_made_validated_and_its_run_is_active(factory: AgentInstanceFactory) -> None:
    context = factory.create_user_execution_context("alice", "thread-1", "run-1", operation_name="look")
    assert (context.user_id, context.thread_id, context.run_id, context.depth) == ("alice", "thread-1", "run-1", 0)
    assert context.operation_name == "look"
    assert factory.active_runs == ["run-1"]
    with pytest.raises(InvalidContextError, match="user_id"):
        factory.create_user_execution_context("system", "thread-1", "run-2")
    assert factory.active_runs == ["run-1"]


def test_every_instance_is_new(factory: AgentInstanceFactory) -> None:
    context = a_context()
    first, second = (factory.create_agent_instance("count", context) for _ in range(2))
    assert isinstance(first, Count)
    assert first is not second
    with pytest.raises(UnknownAgentError, match="did you mean 'count'"):
        factory.create_agent_instance("cuont", context)


def test_no_instance_for_a_context_that_was_tampered_with(factory: AgentInstanceFactory) -> None:
    context = a_context()
    object.__setattr__(context, "user_id", "")
    with pytest.raises(InvalidContextError, match="user_id"):
        factory.create_agent_instance("count", context)
    with pytest.raises(InvalidContextError, match="user_id"), factory.user_execution_scope(context):
        pytest.fail("a scope was opened")
    assert factory.active_runs == []


@pytest.mark.parametrize("error", [None, ValueError("x"), KeyboardInterrupt(), SystemExit(1), GeneratorExit()])
def test_a_scope_cleans_up_whatever_happens_in_it(factory: AgentInstanceFactory, error: BaseException | None) -> None:
    context = a_context()
    notes: list[str] = []

    def work() -> None:
        with factory.user_execution_scope(context) as opened:
            assert opened is context
            assert factory.active_runs == [context.run_id]
            factory.add_cleanup(context, noting(notes, "closed"))
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    assert notes == ["closed"]
    assert factory.active_runs == []


def test_callbacks_run_in_reverse_order_and_survive_each_others_errors(
    factory: AgentInstanceFactory, caplog: pytest.LogCaptureFixture
) -> None:
    context = a_context()
    notes: list[str] = []
    with factory.user_execution_scope(context):
        for note, error in (("first", None), ("second", ValueError("a")), ("third", OSError("b")), ("fourth", None)):
            factory.add_cleanup(context, noting(notes, note, error))
    assert notes == ["fourth", "third", "second", "first"]
    assert factory.counters["cleanup_errors"] == 2
    assert factory.run_history[-1].cleanup_errors == 2
    assert len(caplog.records) == 2
    assert all(
        id_ in record.getMessage() for record in caplog.records for id_ in (context.run_id, context.correlation_id)
    )


def test_an_interrupt_in_a_callback_is_passed_on_after_the_others_have_run(factory: AgentInstanceFactory) -> None:
    context = a_context()
    notes: list[str] = []
    with pytest.raises(KeyboardInterrupt), factory.user_execution_scope(context):
        factory.add_cleanup(context, noting(notes, "first"))
        factory.add_cleanup(context, noting(notes, "second", KeyboardInterrupt()))
    assert notes == ["second", "first"]
    assert factory.active_runs == []
    assert factory.run_history[-1].run_id == context.run_id


def test_a_callback_that_raises_hides_no_error_of_the_body(factory: AgentInstanceFactory) -> None:
    context = a_context()
    with pytest.raises(LookupError), factory.user_execution_scope(context):
        factory.add_cleanup(context, noting([], "", ValueError("of the clean-up")))
        raise LookupError


def test_a_clean_up_belongs_to_a_run_that_is_open(factory: AgentInstanceFactory) -> None:
    context = a_context()
    with pytest.raises(ConfigurationError, match=context.run_id):
        factory.add_cleanup(context, lambda: None)
    with factory.user_execution_scope(context):
        assert factory.cleanup_user_context(context)
        assert not factory.cleanup_user_context(context)  # and the scope's own clean-up does nothing more
    assert factory.counters == {"runs_opened": 1, "runs_cleaned": 1, "cleanup_errors": 0}


def test_a_run_id_cannot_be_opened_or_closed_for_another_user(factory: AgentInstanceFactory) -> None:
    hers = a_context("alice")
    his = a_context("bob", run_id=hers.run_id)
    with factory.user_execution_scope(hers):
        with pytest.raises(ConfigurationError, match="another user"), factory.user_execution_scope(his):
            pytest.fail("a scope was opened")
        with pytest.raises(ConfigurationError, match="another user"):
            factory.cleanup_user_context(his)
        with pytest.raises(ConfigurationError, match="another user"):
            factory.add_cleanup(his, lambda: None)
        assert factory.active_runs == [hers.run_id]


def test_counters_and_history_say_what_happened_and_nothing_of_the_work(
    factory: AgentInstanceFactory, clock: Clock
) -> None:
    context = a_context()
    with factory.user_execution_scope(context):
        clock.now += 5
        factory.create_agent_instance("count", context)
        clock.now += 3
    assert factory.counters == {"runs_opened": 1, "agents_created": 1, "runs_cleaned": 1, "cleanup_errors": 0}
    (past,) = factory.run_history
    assert (past.run_id, past.correlation_id, past.duration_s) == (context.run_id, context.correlation_id, 8)
    assert set(vars(past)) == {"run_id", "correlation_id", "duration_s", "cleanup_errors"}


def test_the_history_is_bounded(factory: AgentInstanceFactory) -> None:
    contexts = [a_context() for _ in range(HISTORY + 5)]
    for context in contexts:
        with factory.user_execution_scope(context):
            pass
    assert [past.run_id for past in factory.run_history] == [context.run_id for context in contexts[5:]]


def test_runs_left_inactive_are_closed_and_the_others_are_not(factory: AgentInstanceFactory, clock: Clock) -> None:
    notes: list[str] = []
    left, used, young = a_context(), a_context(), a_context()
    for context in (left, used):
        factory.create_user_execution_context(context.user_id, context.thread_id, context.run_id)
        factory.add_cleanup(context, noting(notes, context.run_id))
    clock.now += 60
    factory.create_agent_instance("count", used)
    factory.create_user_execution_context(young.user_id, young.thread_id, young.run_id)
    clock.now += 10
    assert factory.cleanup_inactive(idle_s=61) == 1
    assert notes == [left.run_id]
    assert factory.active_runs == [used.run_id, young.run_id]
    assert factory.cleanup_inactive(idle_s=61) == 0
    assert factory.run_history[-1].duration_s == 70
