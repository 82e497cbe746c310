"""The assistant in real sandboxes over real stores, with an endpoint that answers as scripted."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from lanewise.process import wait_until
from shared.models import Document, Run
from shared.services import Services
from tests import model_server
from tests.assistants import INJECTED
from tests.model_server import KEY, NAME, Exchange, ModelServer, call, calls, fails, plays, says
from tests.nodes import PATIENCE_S, Node
from tests.sandboxes import a_zygote
from tests.services import OpenServices
from worker.model import dialogue
from worker.zygote_client import ZygoteClient

AGENTS = "tests.assistants:Helper,worker.agents.assistant:Assistant"
MUST_NOT = ("send_mail", "delete_all", "read_others", "data_helperx", "../../etc/passwd", "shell", "bobs_tool", "")


@pytest.fixture(scope="module")
def model() -> Iterator[ModelServer]:
    with model_server.serving() as running:
        yield running


@pytest.fixture(scope="module")
def zygote(model: ModelServer) -> Iterator[ZygoteClient]:
    """Sandboxes that may use the model."""
    given = model_server.environment(model, LANEWISE_MODEL_SILENCE_S="1")
    with a_zygote(AGENTS, memory_mb=1024, passed=("OPENAI_API_KEY",), **given) as running:
        yield running


@pytest.fixture
def services(open_services: OpenServices) -> Services:
    return open_services(sweep_s=0.1, cancel_grace_s=5)


@pytest.fixture
def node(services: Services, zygote: ZygoteClient) -> Iterator[Node]:
    with Node.start(services, zygote) as running:
        yield running


def ask(node: Node, message: str = "hello", user_id: str = "alice", **options: Any) -> Any:
    """Asks the helper and waits for the end."""
    run = node.begin("helper", {"message": message}, user_id, **options)
    ended = node.wait(run)
    assert wait_until(lambda: run.id not in node.slots(user_id), PATIENCE_S)  # the next one needs it
    return ended


def data(node: Node, run: Run, kind: str) -> list[Any]:
    return [event["data"] for event in node.log(run) if event["type"] == kind]


def texts(node: Node, run: Run, kind: str = "agent_token") -> list[str]:
    return [item["text"] for item in data(node, run, kind)]


def results(model: ModelServer, request: int = -1) -> list[Any]:
    """What the model was told of the tools it had called, up to a request."""
    return [json.loads(content) for content in model.told(request)]


# Answering


def test_an_answer_is_streamed_in_order_and_its_usage_recorded(node: Node, model: ModelServer) -> None:
    model.will(plays("openai_text.sse"))
    run = ask(node)
    assert run.output == {
        "answer": "The north sold the most: 1.5.", "truncated": False, "remembered": True, "turns": 1, "tool_calls": 0,
    }  # fmt: skip
    assert "".join(texts(node, run)) == run.output["answer"]
    assert run.usage == {"model": NAME, "requests": 1, "input_tokens": 31, "output_tokens": 9}
    assert [tool["function"]["name"] for tool in model.requests[-1]["tools"]] == [
        "count_words", "data_helper", "delete_all", "long", "meet", "mislead", "read_others", "send_mail",
    ]  # fmt: skip


def test_many_small_pieces_become_few_events_without_delaying_the_text(node: Node, model: ModelServer) -> None:
    pieces, seen = [f"{number} " for number in range(1000)], threading.Event()

    def pause(exchange: Exchange) -> None:
        exchange.say(*pieces[:900])
        assert seen.wait(PATIENCE_S)
        says(*pieces[900:])(exchange)

    model.will(pause)
    run = node.begin("helper", {"message": "count"})
    assert wait_until(lambda: "".join(texts(node, run)).endswith("899 "), PATIENCE_S)
    seen.set()
    node.wait(run)
    assert "".join(texts(node, run)) == "".join(pieces)
    assert len(texts(node, run)) < 100


def test_an_answer_in_one_piece_is_streamed_whole(node: Node, model: ModelServer) -> None:
    answer = "\N{ELECTRIC LIGHT BULB}" * 20_000  # 80,000 bytes
    model.will(says(answer))
    assert "".join(texts(node, ask(node))) == answer


def test_tools_of_one_turn_run_in_parallel_and_usage_adds_up(node: Node, model: ModelServer) -> None:
    people = [call("meet", {"people": 4}, call_id=f"call_{number}") for number in range(4)]
    model.will(calls(*people, counted=(100, 20)), says("We ", "met.", counted=(150, 3)))
    run = ask(node)
    assert run.output["answer"] == "We met."
    assert (run.output["turns"], run.output["tool_calls"]) == (2, 4)
    assert run.usage == {"model": NAME, "requests": 2, "input_tokens": 250, "output_tokens": 23}
    assert results(model) == [{"result": "4 met"}] * 4
    asked, *_ = [message for message in model.requests[-1]["messages"] if "tool_calls" in message]
    assert [item["id"] for item in asked["tool_calls"]] == [f"call_{number}" for number in range(4)]


def test_queries_of_one_turn_do_not_mix(node: Node, model: ModelServer) -> None:
    table = {"action": "open", "inline": "n\n" + "\n".join(map(str, range(3000)))}
    queries = [
        call("data_helper", {"action": "query", "sql": f"FROM data WHERE n // 100 = {number}"}, call_id=f"q{number}")
        for number in range(16)
    ]
    model.will(calls(call("data_helper", table)), calls(*queries), says("done"))
    assert ask(node).status == "completed"
    answers = [item["result"]["rows"] if "result" in item else item for item in results(model)[1:]]
    assert answers == [[[number * 100 + n] for n in range(100)] for number in range(16)]


def test_what_a_tool_returns_stays_data(node: Node, model: ModelServer) -> None:
    model.will(calls(call("mislead", {})), says("I was told something odd."))
    run = ask(node)
    assert run.status == "completed"
    roles = [message["role"] for message in model.requests[-1]["messages"]]
    assert roles == ["system", "user", "assistant", "tool"]
    assert results(model) == [{"result": INJECTED}]
    assert texts(node, run, "tool_denied") == []


def test_a_long_result_is_shortened_for_the_model(node: Node, model: ModelServer) -> None:
    model.will(calls(call("long", {})), says("That is a lot."))
    assert ask(node).status == "completed"
    (told,) = results(model)
    assert told["note"] == "the first 16,384 of 200,014 bytes"
    assert len(model.told()[0].encode()) < dialogue.MAX_RESULT_BYTES + 500


def test_a_chart_is_saved_for_the_user(node: Node, model: ModelServer, superuser: sa.Connection) -> None:
    table = {"action": "open", "inline": "region,amount\nnorth,1.5\nsouth,2"}
    chart = {"action": "chart", "chart": {"kind": "bar", "x": "region", "y": "amount"}}
    model.will(calls(call("data_helper", table)), calls(call("data_helper", chart)), says("Here it is."))
    run = ask(node)
    assert [item["name"] for item in data(node, run, "agent_artifact")] == ["chart-2.svg"], results(model)
    assert results(model)[1]["result"]["chart"]["svg"] == "saved for the user as the artifact chart-2.svg"
    (saved,) = superuser.execute(sa.text("SELECT content_type, content FROM lanewise.artifacts")).all()
    assert saved.content_type == "image/svg+xml"
    assert bytes(saved.content).startswith(b"<svg")


def test_it_researches_the_users_own_documents(node: Node, model: ModelServer, services: Services) -> None:
    for user_id, text in (("alice", "Travel above 2,000 euros is approved by Ada Byron."), ("bob", "By Bob alone.")):
        with services.database.user_session(user_id) as session:
            session.add(
                Document(
                    user_id=user_id, name="rules.md", content_type="text/markdown", size=len(text), sha256="",
                    content=text.encode(),
                )
            )  # fmt: skip
    model.will(calls(call("deep_research", {"question": "Who approves travel above 2,000 euros?"})), says("Ada Byron."))
    node.wait(node.begin("assistant", {"message": "Who approves travel?"}))
    (found,) = results(model)
    assert found["result"]["found"]
    assert "approved by Ada Byron" in json.dumps(found)
    assert "Bob" not in json.dumps(found)


# What a model must not do


def test_a_model_that_tries_every_tool_it_must_not_use_is_denied_each_time(node: Node, model: ModelServer) -> None:
    tries = [calls(call(name, {"to": "eve"}, call_id=f"c{turn}")) for turn, name in enumerate(MUST_NOT[:-1])]
    model.will(*tries, calls(*(call(name, {}, call_id=name) for name in MUST_NOT[:-1])), says("I may not."))
    run = ask(node)
    assert (run.status, run.output["answer"]) == ("completed", "I may not.")
    denied = data(node, run, "tool_denied")
    assert [item["tool"] for item in denied] == [*MUST_NOT[:-1]] * 2
    assert [item["reason"] for item in denied] == [*["not_granted"] * 3, *["unknown_tool"] * 4] * 2
    assert {item["error"]["type"] for item in results(model)} == {"not_granted", "unknown_tool"}
    assert "tool_executing" not in node.kinds(run)
    assert "IT RAN" not in json.dumps(node.log(run))


def test_a_granted_tool_is_used(node: Node, model: ModelServer, superuser: sa.Connection) -> None:
    superuser.execute(sa.text("INSERT INTO lanewise.tool_grants VALUES ('alice', 'send_mail', 'root')"))
    model.will(calls(call("send_mail", {}), call("delete_all", {}, call_id="b")), says("Sent."))
    run = ask(node)
    assert [item["tool"] for item in data(node, run, "tool_completed")] == ["send_mail"]
    assert [item["tool"] for item in data(node, run, "tool_denied")] == ["delete_all"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ('{"text": "a', "not JSON"),
        ("[1, 2]", "not a JSON object, but a list"),
        ('"text"', "not a JSON object, but a str"),
        ('{"text": NaN}', "NaN is not JSON"),
        ("[" * 20_000, "not JSON"),
        ('{"text": 7}', "text: Input should be a valid string"),
        ("", "text: Field required"),
        ('{"txt": "a b"}', "text: Field required"),
    ],
)
def test_a_malformed_call_is_told_to_the_model_which_may_mend_it(
    node: Node, model: ModelServer, arguments: str, message: str
) -> None:
    model.will(calls(call("count_words", arguments)), calls(call("count_words", {"text": "a b"})), says("Two."))
    run = ask(node)
    assert (run.status, run.output["answer"]) == ("completed", "Two.")
    wrong, mended = results(model)
    assert message in wrong["error"]["message"]
    assert mended == {"result": 2}
    for sent in model.requests[-1]["messages"]:
        for item in sent.get("tool_calls", ()):
            assert isinstance(json.loads(item["function"]["arguments"]), dict)


def test_calls_without_ids_and_names_are_told_apart(node: Node, model: ModelServer) -> None:
    nameless = call("", {"text": "a"}, call_id=None)
    twice = [call("count_words", {"text": "a b"}, call_id=found) for found in (None, "same", "same")]
    model.will(calls(*twice, nameless), says("Fine."))
    run = ask(node)
    assert run.status == "completed", run.error
    *good, bad = results(model)
    assert good == [{"result": 2}] * 3
    assert bad["error"]["message"] == "the call names no tool"
    ids = [item["tool_call_id"] for item in model.requests[-1]["messages"] if item["role"] == "tool"]
    assert len(set(ids)) == 4
    assert all(ids)


def test_endless_malformed_calls_end_in_a_clear_error(node: Node, model: ModelServer) -> None:
    model.will(calls(call("count_words", "{")))
    run = ask(node)
    assert run.error["type"] == "model_protocol"
    assert "6 malformed tool calls in this run; the limit is 5" in run.error["message"]
    assert len(model.requests) == 6


def test_endless_tool_calls_end_in_a_clear_error(node: Node, model: ModelServer) -> None:
    model.will(calls(call("count_words", {"text": "again"})))
    run = ask(node)
    assert (run.error["type"], run.error["message"]) == (
        "model_limit", "the model still called tools in turn 20, which is the last one",
    )  # fmt: skip
    assert [request["tool_choice"] for request in model.requests] == ["auto"] * 19 + ["none"]


def test_too_many_tool_calls_end_in_a_clear_error(node: Node, model: ModelServer) -> None:
    model.will(calls(*(call("count_words", {"text": "a"}, call_id=f"c{n}") for n in range(16))))
    run = ask(node)
    assert (run.error["type"], run.error["message"]) == (
        "model_limit", "the model called more than 64 tools in this run",
    )  # fmt: skip
    assert len(data(node, run, "tool_completed")) == 64


def test_too_many_tokens_end_in_a_clear_error(node: Node, model: ModelServer) -> None:
    model.will(calls(call("count_words", {"text": "a"}), counted=(150_000, 1)))
    run = ask(node)
    assert run.error["message"] == "the model has used 450,003 tokens in this run; the limit is 400,000"
    assert run.usage == {"model": NAME, "requests": 3, "input_tokens": 450_000, "output_tokens": 3}


@pytest.mark.parametrize(
    ("script", "kind"),
    [
        (plays("openai_refusal.sse"), "model_refused"),
        (plays("azure_filter.sse"), "model_refused"),
        (fails(401, "openai_401.json"), "model_unavailable"),
        (fails(400, "openai_400.json"), "model_unavailable"),
        (fails(429, "openai_429.json", Retry_After="0.01"), "model_unavailable"),
        (says("half an ans", finish=None), "model_unavailable"),
        (lambda exchange: (exchange.say("Well"), exchange.wait_until_closed()), "model_timeout"),
        (calls(call("count_words", "x" * 100_000)), "model_limit"),
    ],
)  # fmt: skip
def test_what_fails_at_the_model_fails_the_run_with_its_reason(
    node: Node, model: ModelServer, script: model_server.Script, kind: str
) -> None:
    model.will(script)
    run = ask(node)
    assert run.status == "failed"
    assert run.error["type"] == kind
    assert run.error["message"].startswith("the ")


# Memory


def test_a_thread_remembers_and_another_users_does_not(node: Node, model: ModelServer) -> None:
    model.will(says("Nice to meet you, Ann."))
    first = ask(node, "I am Ann.")
    model.will(says("You are Ann."))
    ask(node, "Who am I?", thread_id=first.thread_id)
    model.will(says("Twice."))
    ask(node, "How often did I ask?", thread_id=first.thread_id)
    said = [(message["role"], message["content"]) for message in model.requests[-1]["messages"][1:]]
    assert said == [
        ("user", "I am Ann."), ("assistant", "Nice to meet you, Ann."),
        ("user", "Who am I?"), ("assistant", "You are Ann."),
        ("user", "How often did I ask?"),
    ]  # fmt: skip
    for user_id, thread in (("alice", None), ("bob", None)):
        ask(node, "And me?", user_id, thread_id=thread)
        assert [message["content"] for message in model.requests[-1]["messages"][1:]] == ["And me?"]


def test_two_runs_of_a_thread_at_once_are_both_remembered(node: Node, model: ModelServer) -> None:
    model.will(says("First."))
    first = ask(node, "one")
    both = threading.Barrier(2)

    def together(exchange: Exchange) -> None:
        both.wait(PATIENCE_S)
        says(f"to {exchange.messages[-1]['content']}")(exchange)

    model.will(together)
    runs = [node.begin("helper", {"message": text}, thread_id=first.thread_id) for text in ("two", "three")]
    assert [(node.wait(run).output or {}).get("remembered") for run in runs] == [True, True]
    model.will(says("Done."))
    ask(node, "four", thread_id=first.thread_id)
    said = [message["content"] for message in model.requests[-1]["messages"][1:]]
    assert said[:2] == ["one", "First."]
    assert {"".join(said[2:4]), "".join(said[4:6])} == {"twoto two", "threeto three"}


# Ends


def test_a_recovered_run_pays_for_no_answer_twice(node: Node, model: ModelServer) -> None:
    held = threading.Event()

    def hold(exchange: Exchange) -> None:
        exchange.say("wait")
        held.set()
        exchange.wait_until_closed()

    model.will(calls(call("count_words", {"text": "a b c"})), hold, says("Three."))
    run = node.begin("helper", {"message": "count"})
    assert held.wait(PATIENCE_S)
    node.wait_for_text(run, "wait")
    os.kill(sandbox_of(node, run), signal.SIGKILL)

    def ended() -> bool:
        node.pump()
        return node.now(run).status == "completed"

    assert wait_until(ended, PATIENCE_S), node.log(run)
    ended_run: Any = node.now(run)
    assert (ended_run.output["answer"], ended_run.attempt) == ("Three.", 2)
    assert len(model.requests) == 3
    assert results(model) == [{"result": 3}]
    assert len(data(node, run, "tool_completed")) == 1
    assert ended_run.usage["requests"] == 2


def sandbox_of(node: Node, run: Run) -> int:
    live = node.parts.zygote._sandboxes
    (sandbox,) = live.values()
    assert sandbox.pid is not None
    assert node.live(run)
    return sandbox.pid


def test_a_cancel_in_the_middle_of_a_stream_stops_it_at_once(node: Node, model: ModelServer) -> None:
    closed: list[float] = []

    def slow(exchange: Exchange) -> None:
        with contextlib.suppress(OSError):  # a close with a tick unread is a reset, which a read or the next tick tells
            exchange.say("tick ")
            while not select_closed(exchange):
                exchange.say("tick ")
        closed.append(time.monotonic())

    model.will(slow)
    run = node.begin("helper", {"message": "talk"})
    node.wait_for_event(run, lambda event: event["type"] == "agent_token")
    at = time.monotonic()
    node.live(run).cancel()
    assert node.wait(run).status == "cancelled"
    assert time.monotonic() - at < 0.5
    assert wait_until(lambda: bool(closed), 2)
    assert closed[0] - at < 0.5


def select_closed(exchange: Exchange) -> bool:
    try:
        exchange.wait_until_closed(0.05)
    except AssertionError:
        return False
    return True


def test_the_key_is_nowhere(
    node: Node, model: ModelServer, superuser: sa.Connection, capfd: pytest.CaptureFixture[str]
) -> None:
    for script in (says("hello"), fails(401, "openai_401.json"), fails(400, "openai_400.json"), fails(302)):
        model.will(script)
        ask(node)
    assert set(model.keys) == {f"Bearer {KEY}"}
    tables = superuser.scalars(sa.text("SELECT tablename FROM pg_tables WHERE schemaname = 'lanewise'")).all()
    assert "run_events" in tables
    for table in tables:
        rows = superuser.scalars(sa.text(f"SELECT row_to_json(t)::text FROM lanewise.{table} t")).all()  # noqa: S608
        assert KEY not in "".join(rows), table
    assert KEY not in "".join(capfd.readouterr())


def test_the_models_sql_cannot_read_the_key(node: Node, model: ModelServer) -> None:
    statements = (
        "SELECT getenv('OPENAI_API_KEY')", "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM duckdb_settings()", "SELECT * FROM duckdb_secrets()",
    )  # fmt: skip
    model.will(
        calls(call("data_helper", {"action": "open", "inline": "a\n1"})),
        calls(*(call("data_helper", {"action": "query", "sql": sql}, call_id=sql[-8:]) for sql in statements)),
        says("no"),
    )
    run = ask(node)
    assert run.status == "completed"
    assert KEY not in json.dumps(model.requests[-1])
    assert KEY not in json.dumps(node.log(run))


def test_without_a_model_a_run_names_the_setting(services: Services) -> None:
    with a_zygote(AGENTS) as zygote, Node.start(services, zygote) as node:
        run: Any = node.wait(node.begin("assistant", {"message": "hello"}))
    assert (run.error["type"], run.error["message"]) == (
        "model_unset", "the assistant needs a language model, and LANEWISE_MODEL is not set",
    )  # fmt: skip
