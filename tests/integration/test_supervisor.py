"""Triage and the supervisor over documents in Postgres, as the run's own role, with and without a language model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any, ClassVar

import pytest

from shared.context import UserExecutionContext
from shared.services import Services
from shared.settings import Settings
from shared.signing import TOKEN_PURPOSE, database_token, derive_key
from shared.states import ExecutionState
from tests import model_server
from tests.evaluation.measure import put
from tests.model_server import ModelServer, environment, fails, says
from tests.parts import DictRecords, DictStore, RecordingBridge, registry_of
from tests.services import SECRETS, start_run, submit_run
from worker.agents.data import Data
from worker.agents.report import Report
from worker.agents.research import Research
from worker.agents.supervisor import Supervisor
from worker.agents.triage import Triage
from worker.authoring import Agent, AgentRun
from worker.core import AgentExecutionResult
from worker.engine import ExecutionEngineFactory, Infrastructure
from worker.managers import SandboxDatabase

SALES = "region,amount\nnorth,1.5\nsouth,2\nnorth,4\n"
HANDBOOK = "# Refunds\n\nRefunds are approved by the head of sales within ten days.\n"
BOTH = "total amount by region, and who approves refunds?"


class Bench:
    """Runs agents of alice's in this process; everything but the frames to a runner is real."""

    def __init__(self, database: SandboxDatabase, context: UserExecutionContext) -> None:
        self._database = database
        self._context = context
        self.records = DictRecords()
        self.bridge = RecordingBridge()

    def run(self, agent: type[Agent], given: dict[str, Any], *others: type[Agent]) -> AgentExecutionResult:
        self.records.steps.clear()  # another run
        registry = registry_of(agent, *others)
        parts = Infrastructure(registry, self._database, DictStore(), self.records, self.bridge)
        engine = ExecutionEngineFactory(parts).create_engine(self._context)
        return asyncio.run(engine.execute(agent.name, given))

    def output(self, agent: type[Agent], given: dict[str, Any], *others: type[Agent]) -> dict[str, Any]:
        result = self.run(agent, given, *others)
        assert result.state is ExecutionState.COMPLETED, result.error
        return dict(result.output)

    @property
    def thoughts(self) -> str:
        return "\n".join(data["text"] for data in self.bridge.data("agent_thinking"))


@pytest.fixture
def bench(services: Services, settings: Settings) -> Iterator[Bench]:
    put(services, "alice", "sales.csv", SALES, "text/csv")
    put(services, "alice", "handbook.md", HANDBOOK, "text/markdown")
    put(services, "bob", "bobs.csv", "planet,moons\nmars,2\n", "text/csv")
    run = start_run(services, submit_run(services, "alice"))
    context = UserExecutionContext.from_request("alice", run.thread_id, run.id)
    token = database_token(derive_key(SECRETS[0], TOKEN_PURPOSE), "alice", run.id, run.attempt, 60)
    assert settings.run_database_url is not None
    with closing(SandboxDatabase(settings.run_database_url.get_secret_value(), token)) as database:
        yield Bench(database, context)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server.serving() as running:
        yield running


@pytest.fixture
def model(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> ModelServer:
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    return server


def agents(output: dict[str, Any]) -> list[str]:
    return sorted(route["agent"] for route in output["routes"])


def test_triage_reads_the_user_s_documents_and_nobody_else_s(bench: Bench) -> None:
    output = bench.output(Triage, {"request": BOTH})
    assert agents(output) == ["data", "research"]
    routes = {route["agent"]: route["input"] for route in output["routes"]}
    assert routes["data"]["document"] == "sales.csv"
    assert routes["research"] == {"question": "who approves refunds?", "documents": ["handbook.md"]}
    assert output["by"] == "rules"
    assert "to choose from: 1 table, 1 text" in bench.thoughts
    strange = bench.output(Triage, {"request": "How many moons has each planet?"})
    assert strange["routes"] == []
    assert set(strange["unplaced"]) == {"moons", "planet"}


def test_triage_keeps_to_the_documents_that_are_named(bench: Bench) -> None:
    output = bench.output(Triage, {"request": BOTH, "documents": ["handbook.md"]})
    assert agents(output) == ["research"]
    result = bench.run(Triage, {"request": BOTH, "documents": ["bobs.csv"]})
    assert result.error == {"type": "invalid", "message": "documents: no document is called 'bobs.csv'"}


def test_a_table_that_is_none_is_told_and_passed_over(bench: Bench, services: Services) -> None:
    put(services, "alice", "broken.csv", "region,amount\n1\n", "text/csv")
    output = bench.output(Triage, {"request": "total amount by region"})
    assert output["routes"][0]["input"]["document"] == "sales.csv"
    assert "broken.csv cannot be read as a table" in bench.thoughts


def proposal(**changed: Any) -> dict[str, Any]:
    sql = "SELECT max(amount) AS most FROM data"
    return {"agent": "data", "confidence": 0.9, "reason": "it asks for the most", "document": "sales.csv", "sql": sql,
            **changed}  # fmt: skip


def proposes(*routes: dict[str, Any]) -> Any:
    return says(json.dumps({"routes": routes}))


def test_a_model_s_routes_are_followed_if_they_hold(bench: Bench, model: ModelServer) -> None:
    question = {"agent": "research", "confidence": 0.8, "reason": "a rule", "question": "Who approves refunds?"}
    model.will(proposes(question, proposal()))
    output = bench.output(Triage, {"request": "the best sale, and the rule for refunds"})
    assert output["by"] == "model"
    assert [(route["agent"], route["input"]) for route in output["routes"]] == [
        ("data", {"document": "sales.csv", "sql": "SELECT max(amount) AS most FROM data"}),
        ("research", {"question": "Who approves refunds?", "documents": ["handbook.md"]}),
    ]
    told = model.told(role="user")[0]
    assert "region VARCHAR" in told
    assert "handbook.md" in told
    assert "bobs.csv" not in told
    assert len(bench.records.usage) == 1


@pytest.mark.parametrize(
    "script",
    [
        proposes(proposal(agent="shell")),
        proposes(proposal(document="bobs.csv")),
        proposes(proposal(document=None)),
        proposes(proposal(sql="SELECT best FROM data")),
        proposes(proposal(sql="DROP TABLE data")),
        proposes(proposal(sql="SELECT * FROM read_csv('/etc/passwd')")),
        proposes(proposal(confidence=7)),
        proposes(proposal(extra="field")),
        proposes({"agent": "research", "confidence": 1, "reason": "so"}),
        proposes(*[proposal()] * 9),
        says("I would ask the data agent."),
        fails(401),
    ],
)
def test_what_a_model_proposes_wrongly_is_left_to_the_rules(bench: Bench, model: ModelServer, script: Any) -> None:
    model.will(script)
    output = bench.output(Triage, {"request": BOTH})
    assert (output["by"], agents(output)) == ("rules", ["data", "research"])
    assert "routing by rules, because: " in bench.thoughts


class Unlucky(Agent):
    """Fails, where data should not."""

    name: ClassVar[str] = "data"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        raise ValueError("out of luck")


def test_the_supervisor_goes_on_without_a_part_that_fails_and_says_so(bench: Bench) -> None:
    output = bench.output(Supervisor, {"request": BOTH}, Triage, Unlucky, Research, Report)
    assert {part["step"]: part["status"] for part in output["parts"]} == {
        "triage": "completed", "data": "failed", "research": "completed", "report": "completed",
    }  # fmt: skip
    assert "- data failed: out of luck" in output["markdown"]
    assert "Refunds are approved by the head of sales" in output["markdown"]


def test_the_supervisor_asks_two_tables(bench: Bench) -> None:
    request = "total amount by region, and what is the largest amount?"
    output = bench.output(Supervisor, {"request": request}, Triage, Data, Research, Report)
    assert [part["step"] for part in output["parts"]] == ["triage", "data-1", "data-2", "report"]
    assert "| north | 5.5 |\n| south | 2 |" in output["markdown"]
    assert "highest amount: **4**" in output["markdown"]
    assert set(bench.records.artifacts) == {"chart.svg", "result.csv", "result-2.csv", "report.md"}
