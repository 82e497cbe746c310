"""Grants, from the table to the sandbox: what a user had when an attempt began, and nothing of anybody else's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from shared.grants import replace_grants
from shared.models import AuditEntry, Run
from shared.services import Services
from tests.nodes import Node
from tests.sandboxes import a_zygote
from worker.zygote_client import ZygoteClient

PAY = {"calls": [["pay", {}]]}


@pytest.fixture(scope="module")
def paying_zygote() -> Iterator[ZygoteClient]:
    with a_zygote("tests.agents_tools") as running:
        yield running


@pytest.fixture
def payers(quick: Services, paying_zygote: ZygoteClient) -> Iterator[Node]:
    with Node.start(quick, paying_zygote) as running:
        yield running


def grant(services: Services, user_id: str, *tools: str) -> None:
    with services.database.user_session(user_id) as session:
        replace_grants(session, user_id, dict.fromkeys(tools), "root")


def outcome(node: Node, run: Run) -> object:
    output = node.wait(run).output
    assert isinstance(output, dict), output
    (result,) = output["results"]
    return result if isinstance(result, str) else result["type"]


@pytest.mark.parametrize("agent", ["caller", "plain_caller"])
def test_a_granted_tool_runs_for_the_user_who_was_granted_it(payers: Node, agent: str) -> None:
    grant(payers.services, "alice", "pay", "other")
    grant(payers.services, "bob", "other")
    runs = {user_id: payers.begin(agent, PAY, user_id) for user_id in ("alice", "bob", "carol")}
    found = {user_id: outcome(payers, run) for user_id, run in runs.items()}
    denied = "not_granted" if agent == "caller" else "tool_error"
    assert found == {"alice": "paid", "bob": denied, "carol": denied}
    kinds = [event["type"] for event in payers.log(runs["bob"])]
    assert "tool_denied" in kinds
    assert "tool_executing" not in kinds


def test_a_denial_is_in_the_audit_trail(payers: Node) -> None:
    run = payers.begin("caller", PAY)
    assert outcome(payers, run) == "not_granted"
    with payers.services.database.user_session("alice") as session:
        told = session.scalars(sa.select(AuditEntry).where(AuditEntry.action == "tool.deny")).all()
    found = [(e.actor, e.object, e.outcome, e.correlation_id, e.detail) for e in told]
    assert found == [("user:alice", run.id, "not_granted", run.correlation_id, {"tool": "pay", "attempt": 1})]


def test_a_grant_that_was_taken_away_or_has_ended_is_none(payers: Node, superuser: sa.Connection) -> None:
    grant(payers.services, "alice", "pay")
    assert outcome(payers, payers.begin("caller", PAY)) == "paid"
    superuser.execute(sa.text("UPDATE lanewise.tool_grants SET expires_at = now()"))
    assert outcome(payers, payers.begin("caller", PAY)) == "not_granted"
    grant(payers.services, "alice", "pay")
    assert outcome(payers, payers.begin("caller", PAY)) == "paid"
    grant(payers.services, "alice")
    assert outcome(payers, payers.begin("caller", PAY)) == "not_granted"


def test_an_attempt_keeps_the_grants_that_it_began_with(payers: Node) -> None:
    held = payers.begin("caller", {"hold": True})
    payers.wait_for_text(held)
    live = payers.parts.live[held.id]
    grant(payers.services, "alice", "pay")
    assert live.granted == ()
    live.cancel()
    assert payers.wait(held).status == "cancelled"
