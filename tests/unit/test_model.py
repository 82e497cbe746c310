"""The model's client against a real endpoint on loopback: what it returns, what it refuses, what it never tells."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from pydantic import BaseModel

from tests import model_server
from tests.model_server import KEY, NAME, Exchange, ModelServer, Script, call, calls, delta, fails, plays, says
from worker.model import (
    Model,
    ModelError,
    ModelLimitError,
    ModelProtocolError,
    ModelRefusedError,
    ModelTimeoutError,
    ModelUnavailableError,
    ModelUnsetError,
    Reply,
    client,
    reply,
)
from worker.model.settings import ModelSettings

ASKED = [{"role": "user", "content": "how many words?"}]


class Verdict(BaseModel):
    good: bool
    why: str


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server.serving() as running:
        yield running


@pytest.fixture
def used() -> list[tuple[str, int, int]]:
    return []


@pytest.fixture
def model(server: ModelServer, used: list[tuple[str, int, int]]) -> Model:
    return make(server, used)


def make(server: ModelServer, used: list[tuple[str, int, int]], **settings: float) -> Model:
    return Model(ModelSettings(NAME, server.url, KEY, **settings), lambda *usage: used.append(usage))


def run(call: Coroutine[Any, Any, Any]) -> Any:
    async def bounded() -> Any:
        async with asyncio.timeout(10):
            return await call

    return asyncio.run(bounded())


def ask(model: Model, *pieces: str) -> Reply:
    texts: list[str] = []
    answer: Reply = run(model.reply(ASKED, texts.append))
    assert "".join(texts) == answer.text
    if pieces:
        assert tuple(texts) == pieces
    return answer


def test_a_recorded_answer_streams_in_order_and_its_usage_is_recorded(
    server: ModelServer, model: Model, used: list[Any]
) -> None:
    server.will(plays("openai_text.sse"))
    answer = ask(model, "The", " north", " sold", " the", " most", ":", " ", "1.5", ".")
    assert answer == Reply("The north sold the most: 1.5.", input_tokens=31, output_tokens=9)
    assert used == [(NAME, 31, 9)]
    assert server.keys[-1] == f"Bearer {KEY}"
    assert server.requests[-1]["messages"] == ASKED
    assert (server.requests[-1]["model"], server.requests[-1]["max_tokens"]) == (NAME, client.MAX_REPLY_TOKENS)


@pytest.mark.parametrize(
    ("recording", "texts", "tokens"),
    [
        ("openai_parallel_calls.sse", ["one two", "three"], (31, 9)),
        ("llamacpp_call.sse", ["a b c"], (120, 14)),
        ("ollama_call.sse", ["a b"], (166, 20)),
        ("unnumbered_calls.sse", ["a", "b c"], (0, 0)),
    ],
)
def test_the_tool_calls_of_each_kind_of_endpoint_are_read(
    server: ModelServer, model: Model, recording: str, texts: list[str], tokens: tuple[int, int]
) -> None:
    server.will(plays(recording))
    answer = ask(model)
    assert [Verdictless.model_validate_json(item.arguments).text for item in answer.calls] == texts
    assert {item.name for item in answer.calls} == {"count_words"}
    assert len({item.id for item in answer.calls}) == len(texts)
    assert (answer.input_tokens, answer.output_tokens) == tokens


class Verdictless(BaseModel):
    text: str


def test_what_a_model_thinks_aloud_is_not_its_answer(server: ModelServer, model: Model) -> None:
    server.will(plays("vllm_text.sse"))
    assert ask(model).text == "Two words."


@pytest.mark.parametrize(
    ("script", "error", "message"),
    [
        (plays("openai_refusal.sse"), ModelRefusedError, r"^the model refused: I'm sorry, I can't help with that\.$"),
        (plays("azure_filter.sse"), ModelRefusedError, "content filter"),
        (says(), ModelProtocolError, "empty"),
        (says(delta(reasoning_content="hm"), finish="length"), ModelLimitError, "before it said anything"),
        (says("half an ans", finish=None), ModelUnavailableError, "broke off before its end"),
        (lambda exchange: exchange.send(b"data: {not json\n\n"), ModelProtocolError, "cannot be read"),
        (says(delta(content=["a", "list"])), ModelProtocolError, "content is not text"),
        (says(delta(tool_calls="none")), ModelProtocolError, "tool_calls is not a list"),
        (says({"choices": "none"}), ModelProtocolError, "choices is not a list"),
        (says({"error": {"message": f"10.0.0.1 {KEY}"}}), ModelUnavailableError, "in the middle of its answer$"),
        (calls(*(call("t", {}) for _ in range(reply.MAX_CALLS + 1))), ModelLimitError, "more than 16 tools at once"),
        (calls(call("t", "x" * 70_000)), ModelLimitError, "longer than 65,536"),
        (fails(401, "openai_401.json"), ModelUnavailableError, r"refuses the key \(401\)$"),
        (fails(400, "openai_400.json"), ModelUnavailableError, r"answered 400: .*maximum context length.*key \[key\]"),
        (fails(404, "ollama_404.json"), ModelUnavailableError, "answered 404: .*try pulling it first"),
        (fails(302, Location="http://127.0.0.1:1/v1"), ModelUnavailableError, "answered 302$"),
    ],
)  # fmt: skip
def test_each_failure_has_a_clear_error_that_tells_no_secret(  # noqa: PLR0913, PLR0917 - what each case is made of
    server: ModelServer, model: Model, used: list[Any], script: Script, error: type[ModelError], message: str
) -> None:
    server.will(script)
    with pytest.raises(error, match=message) as told:
        ask(model)
    assert KEY not in str(told.value) + repr(told.value) + repr(model)
    assert "10.0.0.1" not in str(told.value)
    assert len(server.requests) == 1
    assert used == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_endpoint_is_asked_again_after_the_time_that_it_names(
    server: ModelServer, model: Model, used: list[Any], status: int
) -> None:
    server.will(fails(status, "openai_429.json", Retry_After="0.2"), says("here I am"))
    assert ask(model).text == "here I am"
    first, second = server.at
    assert 0.2 <= second - first < 1
    assert len(used) == 1


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (429, "openai_429.json", r"^the model's endpoint is at its rate limit \(429\)$"),
        (500, "vllm_500.json", r"^the model's endpoint answered 500$"),
    ],
)
def test_an_endpoint_that_stays_busy_is_given_up_after_three_tries(
    server: ModelServer, model: Model, status: int, body: str, message: str
) -> None:
    server.will(fails(status, body, Retry_After="0.01"))
    with pytest.raises(ModelUnavailableError, match=message):
        ask(model)
    assert len(server.requests) == 1 + client.RETRIES


def test_an_endpoint_that_asks_for_too_long_a_wait_is_not_waited_for(server: ModelServer, model: Model) -> None:
    server.will(fails(429, "openai_429.json", Retry_After="3600"))
    with pytest.raises(ModelUnavailableError, match="it asks to wait 3600 s"):
        ask(model)
    assert len(server.requests) == 1


def test_a_long_retry_after_ends_with_the_time_of_the_answer(server: ModelServer, used: list[Any]) -> None:
    server.will(fails(429, Retry_After="60"))
    started = time.monotonic()
    with pytest.raises(ModelTimeoutError, match=r"not done within 0\.5 s"):
        ask(make(server, used, timeout_s=0.5))
    assert time.monotonic() - started < 2


def test_a_stream_that_falls_silent_is_given_up(server: ModelServer, used: list[Any]) -> None:
    closed: list[float] = []

    def silent(exchange: Exchange) -> None:
        exchange.say("Well")
        closed.append(exchange.wait_until_closed())

    server.will(silent)
    with pytest.raises(ModelTimeoutError, match=r"silent for 0\.3 s"):
        ask(make(server, used, silence_s=0.3))
    assert closed or eventually(lambda: closed)


def test_a_stream_that_drips_for_ever_is_given_up(server: ModelServer, used: list[Any]) -> None:
    server.will(endless(lambda: [delta(reasoning_content="hm")], pause_s=0.05))
    started = time.monotonic()
    with pytest.raises(ModelTimeoutError, match=r"not done within 0\.5 s"):
        ask(make(server, used, timeout_s=0.5, silence_s=5))
    assert time.monotonic() - started < 2


def test_a_cut_connection_is_told(server: ModelServer, model: Model) -> None:
    def cut(exchange: Exchange) -> None:
        exchange.say("Half of")
        exchange.cut()

    server.will(cut)
    with pytest.raises(ModelUnavailableError, match="cannot be reached, or broke the connection"):
        ask(model)


def test_nobody_at_the_address_is_told() -> None:
    lonely = Model(ModelSettings(NAME, "http://127.0.0.1:1/v1", KEY))
    with pytest.raises(ModelUnavailableError, match="cannot be reached"):
        ask(lonely)


def test_endless_text_is_truncated_and_the_stream_closed(server: ModelServer, model: Model) -> None:
    server.will(endless(lambda: ["word " * 1000]))
    answer = ask(model)
    assert answer.truncated
    assert len(answer.text) == reply.MAX_TEXT_CHARS


def test_an_endless_line_is_refused(server: ModelServer, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "MAX_REPLY_BYTES", 1_000_000)
    sent = 0

    def line(exchange: Exchange) -> None:
        nonlocal sent
        for _ in range(1000):
            exchange.send(b"x" * 100_000)
            sent += 100_000

    server.will(line)
    with pytest.raises(ModelUnavailableError):
        ask(model)
    assert sent < 90_000_000


def test_an_answer_that_reached_the_models_own_limit_says_so(server: ModelServer, model: Model) -> None:
    server.will(says("as I was say", finish="length"))
    assert ask(model).truncated


@pytest.mark.parametrize(("counted", "expected"), [((-1, 10**12), (0, 10**9)), (("7", None), (0, 0)), (None, (0, 0))])
def test_senseless_counts_do_no_harm(
    server: ModelServer, model: Model, used: list[Any], counted: Any, expected: tuple[int, int]
) -> None:
    server.will(says("ok", counted=counted))
    ask(model)
    assert used == [(NAME, *expected)]


def test_a_cancelled_answer_closes_the_connection_at_once(server: ModelServer, model: Model) -> None:
    begun, closed = asyncio.Event(), []

    def slow(exchange: Exchange) -> None:
        exchange.say("Well")
        closed.append(exchange.wait_until_closed())

    async def cancel_in_the_middle() -> float:
        task = asyncio.create_task(model.reply(ASKED, lambda _: begun.set()))
        await begun.wait()
        at = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return at

    server.will(slow)
    at = run(cancel_in_the_middle())
    assert closed or eventually(lambda: closed)
    assert closed[0] - at < 0.5


def test_an_answer_of_a_given_form(server: ModelServer, model: Model) -> None:
    server.will(says('{"good": true, ', '"why": "it is"}'))
    assert run(model.complete(ASKED, Verdict)) == Verdict(good=True, why="it is")
    sent = server.requests[-1]
    assert sent["response_format"]["json_schema"]["schema"] == Verdict.model_json_schema()
    assert '"why"' in sent["messages"][-1]["content"].replace("'", '"')


def test_a_fence_round_the_json_does_no_harm(server: ModelServer, model: Model) -> None:
    server.will(says('Sure!\n```json\n{"good": false, "why": "no"}\n```'))
    assert run(model.complete(ASKED, Verdict)).why == "no"


def test_a_wrong_form_is_told_to_the_model_once(server: ModelServer, model: Model) -> None:
    server.will(says('{"good": "maybe"}'), says('{"good": true, "why": "now"}'))
    assert run(model.complete(ASKED, Verdict)).why == "now"
    assert "why: Field required" in server.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize("text", ["no JSON here", '{"good": 1', '{"why": 3}', "[" * 100_000])
def test_a_form_missed_twice_is_an_error(server: ModelServer, model: Model, text: str) -> None:
    server.will(says(text))
    with pytest.raises(ModelProtocolError, match="not of the schema Verdict"):
        run(model.complete(ASKED, Verdict))
    assert len(server.requests) == client.COMPLETE_TRIES


def test_without_a_name_there_is_no_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LANEWISE_MODEL", raising=False)
    assert Model.from_environment() is None


def test_a_model_of_openai_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEWISE_MODEL", NAME)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ModelUnsetError, match="OPENAI_API_KEY and list it in LANEWISE_SANDBOX_ENV"):
        Model.from_environment()


def test_an_endpoint_of_ones_own_needs_no_key(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEWISE_MODEL", NAME)
    monkeypatch.setenv("LANEWISE_MODEL_URL", server.url)
    server.will(says("hello"))
    found = Model.from_environment()
    assert found is not None
    assert ask(found).text == "hello"


def test_openais_own_endpoint_is_given_the_limit_by_its_newer_name() -> None:
    assert Model(ModelSettings(NAME, None, KEY))._limit_field == "max_completion_tokens"


def test_replies_survive_their_record(server: ModelServer, model: Model) -> None:
    server.will(plays("openai_parallel_calls.sse"))
    answer = ask(model)
    assert Reply.from_dict(answer.to_dict()) == answer


def endless(pieces: Callable[[], list[Any]], pause_s: float = 0) -> Script:
    def script(exchange: Exchange) -> None:
        for _ in itertools.count():
            exchange.say(*pieces())
            time.sleep(pause_s)

    return script


def eventually(found: Callable[[], object], within_s: float = 2) -> bool:
    deadline = time.monotonic() + within_s
    while not found() and time.monotonic() < deadline:
        time.sleep(0.01)
    return bool(found())
