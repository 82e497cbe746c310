"""The page on models says what the code does: each setting, each limit; and its example runs."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests import model_server
from tests.model_server import fails, says
from worker import held
from worker.model import Model, client, conversation, dialogue, reply, settings

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
LIMITS = {
    "tokens of an answer": client.MAX_REPLY_TOKENS,
    "rate limit (429), 5xx, no connection": 1 + client.RETRIES,
    "text of an answer": reply.MAX_TEXT_CHARS,
    "bytes of an answer on the wire": client.MAX_REPLY_BYTES / 2**20,
    "tool calls of an answer": reply.MAX_CALLS,
    "arguments of an answer's tool calls": reply.MAX_ARGUMENT_CHARS,
    "malformed tool calls of a run": dialogue.MAX_MALFORMED_CALLS,
    "turns of a run": dialogue.MAX_TURNS,
    "tool calls of a run": dialogue.MAX_CALLS,
    "tokens of a run": dialogue.MAX_TOKENS,
    "result of a tool, for the model": dialogue.MAX_RESULT_BYTES / 2**10,
    "exchanges that a thread remembers": conversation.MAX_EXCHANGES,
}


def rows(heading: str) -> list[list[str]]:
    text = PAGE.read_text().split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if "| " in line][1:]


def test_every_setting_is_listed_with_its_default() -> None:
    listed = {name.strip("`"): default for name, default, _ in rows("Settings")}
    assert listed == {
        settings.NAME: "unset", settings.URL: "unset", settings.KEY: "unset",
        settings.TIMEOUT: f"{settings.TIMEOUT_S:g}", settings.SILENCE: f"{settings.SILENCE_S:g}",
    }  # fmt: skip


def test_every_limit_has_the_value_of_the_code() -> None:
    listed = {name: value for name, value, _ in rows("Limits") if "LANEWISE" not in value}
    numbers = {
        name: float(re.split(r"[^\d,]", value, maxsplit=1)[0].replace(",", "")) for name, value in listed.items()
    }
    assert numbers == LIMITS
    text = PAGE.read_text()
    assert f"arrives within {held.MAX_HOLD_S * 1000:g} ms" in text
    assert f"{conversation.MAX_EXCHANGES} of them, {conversation.MAX_BYTES // 1024} KiB" in text


@pytest.mark.parametrize("works", [True, False])
def test_the_example_asks_the_model_and_falls_back(works: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names: dict[str, Any] = {"__name__": "example"}
    exec(code, names)  # noqa: S102 - what the page tells readers to write
    used: list[Any] = []
    run = SimpleNamespace(emit=SimpleNamespace(thinking=used.append), record_usage=lambda *usage: used.append(usage))
    with model_server.serving() as model:
        for name, value in model_server.environment(model).items():
            monkeypatch.setenv(name, value)
        model.will(says('{"name": "ships"}') if works else fails(400))
        found = asyncio.run(names["topic_of"]("boats and sails", run))
    assert found.name == ("ships" if works else "boats")
    assert len(used) == 1
    monkeypatch.delenv(settings.NAME)
    assert Model.from_environment() is None
    assert asyncio.run(names["topic_of"]("boats and sails", run)).name == "boats"
