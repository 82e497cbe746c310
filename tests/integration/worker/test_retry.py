"""`Retry` on its way from a real sandbox to the row of the run, and retries of ended runs in real sandboxes."""

from __future__ import annotations

from typing import Any

import pytest

from lanewise.process import wait_until
from shared.acceptance import Accepted
from shared.models import Run
from shared.outcomes import Cancelled, Lost
from shared.retrying import accept_retry
from tests.integration.worker.conftest import Begin
from tests.nodes import PATIENCE_S, Node
from tests.sandboxes import all_gone
from tests.services import a_context


def unkept(method: str, _given: dict[str, Any]) -> Any:
    """Answers the calls of a sandbox whose run keeps nothing."""
    return {"step.record": True, "state.load": [0, None], "state.save": 1}[method]


def finish(node: Node, run: Run) -> Run:
    """Takes what the broker brings until the run has ended, over its attempts."""

    def ended() -> bool:
        node.services.dispatcher.admit(run.user_id)
        node.pump()
        return node.now(run).finished_at is not None

    assert wait_until(ended, PATIENCE_S), (node.now(run).status, node.log(run))
    return node.now(run)


def said(node: Node, run: Run) -> list[tuple[int, str]]:
    """Returns what the agent of a run said, with the attempts."""
    return [(event["attempt"], event["data"]["text"]) for event in node.log(run) if event["type"] == "agent_thinking"]


def retry(node: Node, run: Run) -> Run:
    """Makes a new run of an ended one, as the api does."""
    context = a_context(run.user_id, thread_id=run.thread_id)
    with node.services.database.user_session(run.user_id) as session:
        answer = accept_retry(
            session, run, context, node.catalogue(run.agent), time_limit_s=run.time_limit_s, quota=1000, slots=3
        )
    assert isinstance(answer, Accepted), answer
    return answer.run


# Out of the sandbox


@pytest.mark.parametrize("after_s", [None, 0, 0.5, 86_400])
def test_it_ends_the_attempt_as_a_counted_loss_with_its_pause(begin: Begin, after_s: float | None) -> None:
    attempt = begin("busy", {"times": 1, "after_s": after_s}, answer=unkept)
    pid = attempt.pid
    assert attempt.outcome() == Lost("retry", "the provider is busy", counted=True, after_s=after_s)
    assert attempt.kinds[-1] == "agent_failed"
    assert attempt.events[-1].data["error"] == {"type": "retry", "message": "the provider is busy"}
    assert all_gone(pid)


def test_a_bad_pause_fails_the_run_and_names_the_limit(node: Node) -> None:
    run = node.begin("busy", {"times": 1, "after_s": 86_401})
    ended = finish(node, run)
    assert ended.error is not None
    assert (ended.status, ended.attempt, ended.error["type"]) == ("failed", 1, "invalid")
    assert ended.error["message"] == "after_s of a Retry must be a number of seconds from 0 to 86,400"


def test_a_cancelled_run_that_asks_for_it_ends_cancelled(begin: Begin) -> None:
    attempt = begin("gives_way", grace_s=5)
    attempt.wait_for()
    attempt.live.cancel()
    assert attempt.outcome() == Cancelled()


def test_out_of_a_tool_it_is_a_failed_call(node: Node) -> None:
    ended = finish(node, node.begin("busy", {"tool": True}))
    assert ended.output == {"success": False, "error": {"type": "retry", "message": "the tool is busy"}}
    assert ended.attempt == 1


# Over attempts


def test_the_next_attempt_goes_on_after_the_recorded_step(node: Node) -> None:
    run = node.begin("busy", {"times": 2, "after_s": 0})
    ended = finish(node, run)
    assert (ended.status, ended.output, ended.attempt) == ("completed", {"made": 1, "tries": 2}, 3)
    assert ended.lost_attempts == 2
    assert said(node, run) == [(1, "first")]
    kinds = [kind for kind in node.kinds(run) if kind in {"agent_failed", "run_recovering", "run_started"}]
    assert kinds == ["run_started", *["agent_failed", "run_recovering", "run_started"] * 2]
    data = next(event["data"] for event in node.log(run) if event["type"] == "run_recovering")
    assert (data["reason"], data["message"], data["attempt"]) == ("retry", "the provider is busy", 1)


def test_the_last_attempt_fails_the_run_with_what_it_asked_for(node: Node) -> None:
    ended = finish(node, node.begin("busy", {"times": 9, "after_s": 0}, max_attempts=2))
    assert ended.error is not None
    assert (ended.status, ended.attempt, ended.error["type"]) == ("failed", 2, "retry")
    assert ended.error["message"] == "the provider is busy; the run has used all 2 attempts"
    assert ended.error["retryable"] is True


@pytest.mark.parametrize("part", ["first", "left", "last"])
def test_a_part_of_a_workflow_asks_for_the_whole_run_and_recorded_parts_are_not_done_again(
    node: Node, part: str
) -> None:
    run = node.begin("flow", {"retry": part})
    ended = finish(node, run)
    assert (ended.status, ended.attempt) == ("completed", 2), ended.error
    assert ended.output == {name: name for name in ("first", "left", "right", "last")}
    tokens = said(node, run)
    assert [attempt for attempt, name in tokens if name == part] == [1, 2]
    if part != "first":
        assert [attempt for attempt, name in tokens if name == "first"] == [1]


@pytest.mark.parametrize("max_attempts", [1, 2])
def test_where_a_failure_is_passed_over_the_last_attempt_does_so(node: Node, max_attempts: int) -> None:
    ended = finish(node, node.begin("lenient", {"times": 9, "after_s": 0}, max_attempts=max_attempts))
    error = {"type": "retry", "message": "the provider is busy"}
    assert (ended.status, ended.output, ended.attempt) == ("completed", {"busy": error}, max_attempts), ended.error


# Of ended runs


def test_a_retry_goes_on_after_the_steps_of_the_old_run(node: Node) -> None:
    old = finish(node, node.begin("busy", {"times": 1, "after_s": 0}, max_attempts=1))
    assert old.status == "failed"
    new = retry(node, old)
    ended = finish(node, new)
    assert (ended.status, ended.output, ended.attempt) == ("completed", {"made": 1, "tries": 1}, 1), ended.error
    assert said(node, old) == [(1, "first")]
    assert said(node, new) == []
    assert (ended.retry_of, ended.input, ended.thread_id) == (old.id, old.input, old.thread_id)


def test_a_retry_of_a_workflow_goes_on_after_its_finished_parts(node: Node) -> None:
    old = finish(node, node.begin("flow", {"retry": "last"}, max_attempts=1))
    assert old.status == "failed"
    new = retry(node, old)
    assert finish(node, new).status == "completed"
    assert [name for _, name in said(node, new)] == ["last"]
