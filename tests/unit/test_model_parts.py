"""What the model's client is made of: schemas of tools, memory, tokens, settings."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from types import SimpleNamespace
from typing import Any, Literal

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, RootModel

from shared.errors import StateConflictError
from shared.settings import Settings
from tests.model_server import KEY
from worker.agents.assistant import TOOLS, Assistant, _installed
from worker.model import conversation, settings
from worker.model.conversation import Conversation, remembering
from worker.model.schema import function_of
from worker.tools.data_helper import DataHelperParameters


def parameters_of(model: type[BaseModel]) -> Any:
    tool = {"name": "t", "description": "d" * 5000, "parameters": model.model_json_schema()}
    function = function_of(tool)["function"]
    assert len(function["description"]) == 1024
    jsonschema.Draft202012Validator.check_schema(function["parameters"])
    return function["parameters"]


# Schemas


class Plain(BaseModel):
    text: str


class Start(BaseModel):
    """Begins."""

    action: Literal["start"]
    at: int
    note: str = ""


class Stop(BaseModel):
    action: Literal["stop"]
    at: str


class StartOrStop(RootModel[Start | Stop]):
    pass


def test_an_object_stays_as_it_is() -> None:
    assert parameters_of(Plain) == Plain.model_json_schema()


def test_a_choice_of_objects_becomes_one_object_that_allows_each() -> None:
    schema = parameters_of(StartOrStop)
    assert (schema["type"], schema["required"]) == ("object", ["action", "at"])
    assert schema["properties"]["action"] == {"type": "string", "enum": ["start", "stop"]}
    assert schema["properties"]["at"]["anyOf"] == [{"title": "At", "type": kind} for kind in ("integer", "string")]
    assert schema["description"] == "One of: action=start, at, note? (Begins.) | action=stop, at"
    assert not {"oneOf", "anyOf"} & set(schema)


@pytest.mark.parametrize(
    "value",
    [
        {"action": "open", "inline": "a\n1"}, {"action": "profile"}, {"action": "query", "sql": "FROM data"},
        {"action": "chart", "of": "result", "chart": {"kind": "bar", "x": "a"}},
    ],
)  # fmt: skip
def test_what_the_data_tool_takes_a_model_may_give(value: dict[str, Any]) -> None:
    DataHelperParameters.model_validate(value)
    jsonschema.validate(value, parameters_of(DataHelperParameters))


# Memory


def after(*exchanges: tuple[str, str, str]) -> Conversation:
    state: Any = None
    for exchange in exchanges:
        state = remembering(*exchange)(state)
    return Conversation.from_state(state)


def test_an_exchange_of_a_recovered_run_is_remembered_once() -> None:
    found = after(("r1", "a", "b"), ("r2", "c", "lost"), ("r2", "c", "d"))
    assert [message["content"] for message in found.messages()] == ["a", "b", "c", "d"]
    assert [exchange.run_id for exchange in found.before("r2").exchanges] == ["r1"]


def test_the_oldest_exchanges_are_dropped() -> None:
    many = conversation.MAX_EXCHANGES + 3
    found = after(*((str(number), "q", "a") for number in range(many)))
    assert [exchange.run_id for exchange in found.exchanges] == [str(number) for number in range(3, many)]


@given(st.lists(st.tuples(st.text(), st.integers(0, 30_000)), max_size=12))
def test_memory_stays_small_and_keeps_the_newest(texts: list[tuple[str, int]]) -> None:
    found = after(*((str(number), text * 50, "ä" * size) for number, (text, size) in enumerate(texts)))
    assert conversation._size(found.exchanges) <= conversation.MAX_BYTES
    assert not texts or found.exchanges[-1].run_id == str(len(texts) - 1)


@pytest.mark.parametrize("state", [None, 3, [], {}, {"exchanges": 1}, {"exchanges": [{"x": 1}]}, {"exchanges": ["a"]}])
def test_what_is_no_conversation_begins_a_new_one(state: Any) -> None:
    assert Conversation.from_state(state).exchanges == ()


# Settings


def test_the_defaults_are_those_of_the_settings() -> None:
    fields = Settings.model_fields
    assert fields["model_timeout_s"].default == settings.TIMEOUT_S
    assert fields["model_silence_s"].default == settings.SILENCE_S


def test_a_representation_tells_no_key() -> None:
    environ = {"LANEWISE_MODEL": "m", "OPENAI_API_KEY": KEY, "LANEWISE_MODEL_TIMEOUT_S": "7"}
    found = settings.ModelSettings.read(environ)
    assert found is not None
    assert (found.key, found.timeout_s, found.silence_s) == (KEY, 7, settings.SILENCE_S)
    assert KEY not in repr(found) + str(found)


IMPORTS = "import sys; sys.path.insert(0, '.'); import worker.agents.assistant; print('openai' in sys.modules)"
NOT_INSTALLED = "import sys; sys.modules['openai'] = None; import worker.agents.assistant"


def python(code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("environ", "imported"), [({}, "False"), ({"LANEWISE_MODEL": "m"}, "True")])
def test_only_a_zygote_with_a_model_imports_the_library(environ: dict[str, str], imported: str) -> None:
    assert python(IMPORTS, **environ).stdout.strip() == imported


def test_a_model_without_the_library_stops_the_start_with_the_cure() -> None:
    told = python(NOT_INSTALLED, LANEWISE_MODEL="m").stderr
    assert "LANEWISE_MODEL is set, but the library is missing: install lanewise[llm]" in told
    assert python(NOT_INSTALLED).returncode == 0


def test_the_assistant_has_the_tools_that_are_installed() -> None:
    assert {tool.name for tool in Assistant.tools} == {"data_helper", "deep_research"}
    assert _installed((TOOLS[0], "not_there.at_all:Tool")) == Assistant.tools[:1]


def test_an_answer_is_not_lost_if_it_cannot_be_remembered() -> None:
    thoughts: list[str] = []

    def refuse(_: object) -> None:
        raise StateConflictError("another run of the thread saved it meanwhile")

    run: Any = SimpleNamespace(state=SimpleNamespace(update=refuse), emit=SimpleNamespace(thinking=thoughts.append))
    assert asyncio.run(Assistant._remember(run, remembering("r", "q", "a"))) is False
    assert thoughts == ["this exchange will not be remembered: other runs of the thread are writing all the time"]
