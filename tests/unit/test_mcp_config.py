"""The file that mounts MCP servers: what it may say, and how it is told what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shared.errors import ConfigurationError
from worker.mcp import config
from worker.mcp.config import MAX_SERVERS, McpServer, load_servers, resolve

AGENTS = ["assistant", "research"]
Load = Callable[[Any], Any]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(content: Any) -> Any:
        path = tmp_path / "mcp.json"
        path.write_text(content if isinstance(content, str) else json.dumps({"mcpServers": content}))
        return load_servers(str(path), AGENTS)[0]

    return load


@pytest.mark.parametrize("path", [None, ""])
def test_without_a_file_there_are_no_servers(path: str | None) -> None:
    assert load_servers(path, AGENTS) == ({}, [])


def test_what_other_programs_have_is_enough_and_gives_nobody_anything(load: Load) -> None:
    servers = load(
        {"files": {"command": "mcp-files", "args": ["-r"], "env": {"A": "1"}}, "web": {"url": "https://x/y"}}
    )
    assert list(servers) == ["files", "web"]
    files = servers["files"]
    assert (files.permission, files.agents, files.tools, files.time_limit_s) == ("granted", (), None, 60)
    assert not files.serves("assistant")
    assert load({}) == {}


def test_a_server_is_for_the_agents_that_it_names(load: Load) -> None:
    servers = load({"a": {"command": "x", "agents": ["research"]}, "b": {"url": "http://x", "agents": ["*"]}})
    assert [servers["a"].serves(agent) for agent in AGENTS] == [False, True]
    assert [servers["b"].serves(agent) for agent in AGENTS] == [True, True]


def test_servers_cannot_be_changed(load: Load) -> None:
    servers = load({"a": {"command": "x"}})
    with pytest.raises(TypeError):
        servers["b"] = servers["a"]
    with pytest.raises(ValidationError):
        servers["a"].permission = "open"


@pytest.mark.parametrize(
    ("server", "message"),
    [
        ({}, "mcpServers.a: Value error, give either `command` or `url`"),
        ({"command": "x", "url": "http://x"}, "give either `command` or `url`"),
        ({"command": ""}, "mcpServers.a.command: String should have at least 1 character"),
        ({"command": ["x"]}, "mcpServers.a.command: Input should be a valid string"),
        ({"command": "x", "args": "y"}, "mcpServers.a.args: "),
        ({"command": "x", "env": {"A": 1}}, "mcpServers.a.env.A: "),
        ({"command": "x", "headers": {"A": "1"}}, "`headers` are for a server with a `url`"),
        ({"url": "http://x", "env": {"A": "1"}}, "`args` and `env` are for a server with a `command`"),
        ({"url": "x.example.com"}, "`url` must begin with http:// or https:// and name a host"),
        ({"url": "file:///x"}, "`url` must begin with"),
        ({"url": "https://"}, "`url` must begin with"),
        ({"command": "x", "type": "http"}, "a server of type 'http' needs `url`"),
        ({"url": "http://x", "type": "sse"}, "mcpServers.a.type: "),
        ({"command": "x", "agent": ["a"]}, "mcpServers.a.agent: Extra inputs are not permitted"),
        ({"command": "x", "permission": "all"}, "mcpServers.a.permission: Input should be 'open' or 'granted'"),
        ({"command": "x", "time_limit_s": 0}, "mcpServers.a.time_limit_s: Input should be greater than 0"),
        ({"command": "x", "time_limit_s": 3601}, "mcpServers.a.time_limit_s: "),
        ({"command": "x", "connect_limit_s": 301}, "mcpServers.a.connect_limit_s: "),
        ({"command": "x", "agents": "assistant"}, "mcpServers.a.agents: "),
        (
            {"command": "x", "env": {"K": "${NOT_THERE}"}},
            "mcpServers.a.env.K: sandboxes have no variable NOT_THERE: set",
        ),
        ({"url": "http://x", "headers": {"K": "a ${NOT_THERE}"}}, "headers.K: sandboxes have no variable NOT_THERE"),
        ({"command": "x", "args": ["a", "${NOT_THERE}"]}, "mcpServers.a.args.1: sandboxes have no variable"),
        ({"url": "http://x/${NOT_THERE}"}, "mcpServers.a.url: sandboxes have no variable"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_key(load: Load, server: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"a": server})
    assert caught.value.message.startswith("LANEWISE_MCP_FILE: ")
    assert "mcp.json: mcpServers.a" in caught.value.message
    assert message in caught.value.message


def test_a_server_for_an_agent_that_this_worker_does_not_have_is_noted(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"a": {"command": "x", "agents": ["asistant", "research", "*"]}}}))
    servers, (note,) = load_servers(str(path), AGENTS)
    assert list(servers) == ["a"]
    assert note.endswith("mcp.json: mcpServers.a.agents: no agent of this worker is called 'asistant'; "
                         "did you mean 'assistant'?")  # fmt: skip


@pytest.mark.parametrize("name", ["", "a__b", "a_", "_a", "a.b", "a b", "x" * 33])
def test_a_name_from_which_no_tools_name_can_be_made_is_refused(load: Load, name: str) -> None:
    with pytest.raises(ConfigurationError, match=r"mcp\.json: mcpServers"):
        load({name: {"command": "x"}})


@pytest.mark.parametrize("name", ["a", "a_b", "My-server", "x" * 32])
def test_other_names_are_taken(load: Load, name: str) -> None:
    assert list(load({name: {"command": "x"}})) == [name]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"servers": {}}', '{"mcpServers": []}', "\x00"])
def test_a_file_that_is_something_else_is_refused(load: Load, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"LANEWISE_MCP_FILE: .*mcp\.json: "):
        load(text)


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"none\.json: cannot be read: No such file"):
        load_servers(str(tmp_path / "none.json"), AGENTS)


def test_too_many_servers_are_refused(load: Load) -> None:
    assert len(load({f"s{number}": {"command": "x"} for number in range(MAX_SERVERS)})) == MAX_SERVERS
    with pytest.raises(ConfigurationError, match="at most 50 items"):
        load({f"s{number}": {"command": "x"} for number in range(MAX_SERVERS + 1)})


def test_without_the_library_the_cure_is_named(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "find_spec", lambda _: None)
    assert load({}) == {}
    with pytest.raises(ConfigurationError, match=r"install lanewise\[mcp\]"):
        load({"a": {"command": "x"}})


def test_references_are_resolved_everywhere_and_nothing_else_is(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKEN", "$s3cret ${TOKEN}")
    server: McpServer = load({"a": {"command": "x", "args": ["${TOKEN}", "$TOKEN", "${}", "$${a-b}"]}})["a"]
    assert [resolve(text, {"TOKEN": "$s3cret ${TOKEN}"}) for text in server.args] == [
        "$s3cret ${TOKEN}", "$TOKEN", "${}", "$${a-b}",
    ]  # fmt: skip
    with pytest.raises(KeyError):
        resolve("${OTHER}", {})
