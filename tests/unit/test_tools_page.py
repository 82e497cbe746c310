"""`docs/tools.md` says what the code does: its examples run, its limits are those of the code."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from shared.grants import MAX_GRANTS
from tests.services import a_context
from worker.agents.assistant import Assistant
from worker.authoring import Tool
from worker.mcp.config import McpServer, load_servers
from worker.mcp.sessions import MAX_TOOLS
from worker.registry import check_agent_class, check_tool_class
from worker.toolcalls import MAX_AT_ONCE, MAX_WAIT_S, MAX_WAITING
from worker.tooling import MAX_RESULT_BYTES
from worker.tools.fetch import MAX_CHARACTERS, FetchParameters, FetchTool
from worker.tools.web.page import MAX_BYTES

PAGE = (Path(__file__).parents[2] / "docs" / "tools.md").read_text()
WORDS = " ".join(PAGE.split())  # wherever its lines end


def block(language: str, number: int = 0) -> str:
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    return found[number]


def test_the_tool_of_the_page_is_one() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block("python").replace("from __future__", ""), "tools.md", "exec"), names)  # noqa: S102 - our own page
    count = names["Count"]
    check_tool_class(count)
    assert count(None).run(a_context(), names["Words"](text="a b")) == 2


def test_the_assistant_of_the_page_can_fetch() -> None:
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(block("python", 1), "tools.md", "exec"), names)  # noqa: S102 - our own page
    check_agent_class(names["WebAssistant"])
    assert FetchTool in names["WebAssistant"].tools
    assert FetchTool not in Assistant.tools
    most, usual = MAX_CHARACTERS, FetchParameters.model_fields["max_characters"].default
    assert f"of text ({usual:,}; at most {most:,})" in PAGE
    assert f"The whole call has {FetchTool.time_limit_s:g} s, a page {MAX_BYTES // 2**20} MiB" in WORDS


def test_the_servers_of_the_page_can_be_mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("FILES_TOKEN", "SEARCH_KEY"):
        monkeypatch.setenv(name, "x")
    path = tmp_path / "mcp.json"
    path.write_text(block("json"))
    servers, notes = load_servers(str(path), ["assistant"])
    assert (list(servers), notes) == (["files", "search"], [])


def test_the_tables_of_the_page_name_every_key_and_every_limit() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")]
    named = {key for cells in rows for key in re.findall(r"`(\w+)`", cells[0])}
    assert McpServer.model_fields.keys() <= named
    defaults = {cells[0].strip("`"): cells[-1] for cells in rows}
    for name in ("time_limit_s", "connect_limit_s"):
        assert defaults[name] == f"{McpServer.model_fields[name].default:g}"
    assert f"{Tool.time_limit_s:g} s if it names none" in PAGE
    assert f"{MAX_RESULT_BYTES // 2**20} MiB of JSON, 20 levels deep" in PAGE
    assert f"{MAX_AT_ONCE} in a run; up to {MAX_WAITING:,} more wait" in PAGE
    assert f"{MAX_WAIT_S:g} s at most" in PAGE
    assert f"(at most {MAX_GRANTS})" in PAGE
    assert f"At most {MAX_TOOLS} tools" in WORDS
