"""Tools of real MCP servers, called by agents in real sandboxes: honest ones over both transports, and odd ones."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lanewise.ports import free_port
from lanewise.process import wait_until
from shared.errors import ConfigurationError
from shared.outcomes import Cancelled, Completed
from tests.integration.worker.conftest import Begin
from tests.sandboxes import Attempt, a_zygote, all_gone, descendants
from worker.zygote_client import ZygoteClient

SERVERS = Path(__file__).parents[2] / "mcp_servers"
AGENTS = "tests.agents_tools"
MEMORY_MB = 1024
PATIENCE_S = 30.0
EVERYBODY = {"agents": ["caller", "plain_caller"], "permission": "open"}
ODD = ("exits", "silent", "babbles", "dirty", "strange", "endless", "stubborn")


def honest(**keys: Any) -> dict[str, Any]:
    """A server that starts at once: what is ours behaves the same with it as with the official library's."""
    return {"command": sys.executable, "args": [str(SERVERS / "plain.py")], **EVERYBODY, **keys}


def official(**keys: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": [str(SERVERS / "honest.py")], **EVERYBODY, **keys}


def odd(kind: str, **keys: Any) -> dict[str, Any]:
    return {"command": sys.executable, "args": [str(SERVERS / "odd.py"), kind], **EVERYBODY, **keys}


@pytest.fixture(scope="module")
def http_server() -> Iterator[str]:
    """An honest server on loopback; returns its URL."""
    port = free_port()
    process = subprocess.Popen([sys.executable, str(SERVERS / "honest.py"), str(port)], stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        assert wait_until(answers, PATIENCE_S)
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        process.terminate()
        process.wait(10)


@pytest.fixture(scope="module")
def elsewhere_server() -> Iterator[socket.socket]:
    """Where a schema says that the rest of it is."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture(scope="module")
def mcp_zygote(
    http_server: str, elsewhere_server: socket.socket, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ZygoteClient]:
    servers = {
        "official": official(),
        "honest": honest(env={"SECRET": "Bearer ${MCP_SECRET}"}),
        "remote": {"url": http_server, "headers": {"X-Key": "${MCP_SECRET}"}, **EVERYBODY},
        "nobody": {"url": f"http://127.0.0.1:{free_port()}/mcp", **EVERYBODY},
        "missing": {"command": "/srv/nowhere/server", **EVERYBODY},
        "granted": honest(permission="granted"),
        "few": honest(tools=["echo"], time_limit_s=0.5),
        "quick": honest(time_limit_s=0.5),
        **{kind: odd(kind, connect_limit_s=1 if kind in {"silent", "babbles"} else 20) for kind in ODD},
    }
    servers["strange"]["args"].append(f"http://127.0.0.1:{elsewhere_server.getsockname()[1]}")
    path = tmp_path_factory.mktemp("mcp") / "mcp.json"
    path.write_text(json.dumps({"mcpServers": servers}))
    secrets = {"LANEWISE_MCP_FILE": str(path), "MCP_SECRET": "canary-of-mcp"}
    with a_zygote(AGENTS, memory_mb=MEMORY_MB, passed=("MCP_SECRET",), **secrets) as running:
        yield running


Call = Callable[..., Any]


@pytest.fixture
def start(begin: Begin, mcp_zygote: ZygoteClient) -> Callable[..., Attempt]:
    def start(*calls: Any, agent: str = "caller", granted: tuple[str, ...] = (), **given: Any) -> Attempt:
        user_id = given.pop("user_id", "alice")
        return begin(agent, {"calls": calls, **given}, granted=granted, user_id=user_id, zygote=mcp_zygote)

    return start


@pytest.fixture
def call(start: Callable[..., Attempt]) -> Call:
    """Runs an agent that makes calls; returns its output."""

    def call(*calls: Any, **given: Any) -> Any:
        outcome = start(*calls, **given).outcome(PATIENCE_S)
        assert isinstance(outcome, Completed), outcome
        return outcome.output

    return call


def text_of(result: Any) -> str:
    return "".join(block["text"] for block in result["content"])


def value_of(result: Any) -> Any:
    """What a tool of the official library returned."""
    content = result["structuredContent"]
    return content.get("result", content)


# What works


@pytest.mark.parametrize("server", ["official", "remote"])
@pytest.mark.parametrize("agent", ["caller", "plain_caller"])
def test_tools_are_called_over_both_transports(call: Call, server: str, agent: str) -> None:
    output = call((f"{server}__echo", {"text": "hällo"}), (f"{server}__add", {"a": 2, "b": 3}), agent=agent)
    echo, add = output["results"]
    assert (text_of(echo), value_of(add)) == ("hällo", 5)
    assert output["mcp"] == "before the fork"


def test_a_sandbox_that_calls_no_such_tool_starts_no_server(start: Callable[..., Attempt]) -> None:
    attempt = start(("honest__fail", {}), ("granted__echo", {"text": "x"}), hold=True)
    attempt.wait_for("begun")
    assert descendants(attempt.pid) == []
    assert attempt.kinds.count("tool_completed") == 1  # the agent's own of that name


def test_a_worker_without_servers_does_not_load_the_library(begin: Begin) -> None:
    with a_zygote(AGENTS) as without:
        outcome = begin("caller", {"calls": [("honest__echo", {"text": "x"})]}, zygote=without).outcome(PATIENCE_S)
    assert isinstance(outcome, Completed), outcome
    assert outcome.output["results"][0]["type"] == "unknown_tool"
    assert outcome.output["mcp"] == "no"


def test_events_tell_of_such_a_call_as_of_any_other(start: Callable[..., Attempt]) -> None:
    attempt = start(("honest__echo", {"text": "x"}))
    assert isinstance(attempt.outcome(PATIENCE_S), Completed)
    assert attempt.kinds == ["agent_started", "tool_executing", "tool_completed", "agent_completed"]
    assert [event.data["tool"] for event in attempt.events if event.type.startswith("tool_")] == ["honest__echo"] * 2


def test_a_model_sees_the_tools_with_the_servers_schemas(call: Call) -> None:
    schemas = {entry["name"]: entry for entry in call(schemas=True)["schemas"]}
    assert schemas["honest__add"]["description"] == "Adds two whole numbers."
    assert set(schemas["honest__add"]["parameters"]["required"]) == {"a", "b"}
    assert {"endless", "pay", "remote__echo", "dirty__good", "strange__good"} <= schemas.keys()
    assert [name for name in schemas if name.startswith("few__")] == ["few__echo"]  # the others are not in the list
    assert not [name for name in schemas if name.startswith(("granted__", "silent__", "exits__"))]


def test_calls_at_once_share_one_server(call: Call) -> None:
    for agent in ("caller", "plain_caller"):
        calls = [("honest__sleep", {"seconds": 0.2}) for _ in range(5)] + [("honest__whoami", {})] * 3
        *slept, first, second, third = call(*calls, agent=agent, at_once=True)["results"]
        assert [value_of(result) for result in slept] == ["slept"] * 5
        assert len({value_of(result)["pid"] for result in (first, second, third)}) == 1


def test_parameters_are_checked_by_the_servers_schema_before_it_is_called(call: Call) -> None:
    calls = [("honest__add", {"a": 1}), ("honest__add", {"a": "x", "b": 1}), ("honest__add", {"a": 1, "b": 2})]
    missing, wrong, right = call(*calls)["results"]
    assert missing == {"type": "invalid", "message": "parameters: 'b' is a required property"}
    assert wrong == {"type": "invalid", "message": "a: 'x' is not of type 'integer'"}
    assert value_of(right) == 3


# Whose it is


def test_each_run_has_a_server_process_of_its_own_and_nothing_of_anothers(call: Call, start: Any) -> None:
    holding = [start(("honest__remember", {"text": user}), hold=True, user_id=user) for user in ("alice", "bob")]
    for attempt in holding:
        attempt.wait_for("begun")
    children = [descendants(attempt.pid) for attempt in holding]
    assert all(children)
    assert not set(children[0]) & set(children[1])
    for attempt in holding:
        attempt.live.cancel()
        assert attempt.outcome(PATIENCE_S) == Cancelled()
    assert all_gone(*children[0], *children[1])
    for user in ("alice", "bob"):
        (kept,) = call(("honest__remember", {"text": user}), user_id=user)["results"]
        assert value_of(kept) == [user]


def test_a_server_sees_its_own_environment_only(call: Call) -> None:
    (seen,) = call(("honest__whoami", {}))["results"]
    seen = value_of(seen)
    assert seen["env"]["SECRET"] == "Bearer canary-of-mcp"
    assert seen["env"].keys() - {"LC_CTYPE"} <= {"SECRET", "HOME", "PATH", "LOGNAME", "SHELL", "TERM", "USER"}
    assert seen["cwd"] == seen["env"]["HOME"] != str(Path.cwd())


def test_a_server_inherits_nothing_but_its_streams(call: Call) -> None:
    (seen,) = call(("honest__whoami", {}))["results"]
    assert value_of(seen)["descriptors"] == ["0", "1", "2"]


def test_headers_have_the_secret_of_the_environment(call: Call) -> None:
    (seen,) = call(("remote__whoami", {}))["results"]
    assert value_of(seen)["headers"]["x-key"] == "canary-of-mcp"


def test_a_tool_that_needs_a_grant_is_denied_and_its_server_is_not_started(start: Callable[..., Attempt]) -> None:
    attempt = start(("granted__echo", {"text": "x"}), ("granted__no", {}), schemas=False, hold=True)
    attempt.wait_for("begun")
    assert descendants(attempt.pid) == []
    assert attempt.kinds.count("tool_denied") == 2
    assert "tool_executing" not in attempt.kinds
    reasons = {event.data["reason"] for event in attempt.events if event.type == "tool_denied"}
    assert reasons == {"not_granted"}


def test_a_granted_tool_is_called_and_its_neighbour_is_not(call: Call) -> None:
    echo, add = call(("granted__echo", {"text": "x"}), ("granted__add", {"a": 1, "b": 1}), granted=("granted__echo",))[
        "results"
    ]
    assert text_of(echo) == "x"
    assert add["type"] == "not_granted"


def test_an_agent_that_is_given_no_server_has_none_of_its_tools(call: Call) -> None:
    output = call(("honest__echo", {"text": "x"}), agent="stranger")
    assert output["results"][0]["type"] == "unknown_tool"
    assert not output["below"]


def test_what_is_not_mounted_is_unknown(call: Call) -> None:
    left_out, missing, other = call(("few__add", {"a": 1, "b": 1}), ("honest__nothing", {}), ("no__tool", {}))[
        "results"
    ]
    assert {left_out["type"], missing["type"], other["type"]} == {"unknown_tool"}


# What goes wrong


def test_a_tool_that_fails_says_why(call: Call) -> None:
    (failed,) = call(("few__echo", {"text": "x"}), ("remote__fail", {"words": "no luck"}))["results"][1:]
    assert failed["type"] == "mcp_error"
    assert "no luck" in failed["message"]


def test_the_time_limit_of_a_server_holds_for_each_call(call: Call) -> None:
    call_ = ("quick__sleep", {"seconds": 60})
    slow, after = call(call_, ("quick__echo", {"text": "still here"}))["results"]
    assert slow == {"type": "timed_out", "message": "the tool reached its time limit of 0.5 s"}
    assert text_of(after) == "still here"


def test_a_huge_answer_is_refused_and_the_next_call_works(call: Call) -> None:
    huge, after = call(("honest__huge", {"size": 3_000_000}), ("honest__echo", {"text": "x"}))["results"]
    assert huge["type"] == "too_large"
    assert "the limit is 1048576" in huge["message"]
    assert text_of(after) == "x"


def test_a_server_that_dies_fails_its_tools_and_not_the_run(call: Call) -> None:
    died, after, other = call(("honest__die", {}), ("honest__echo", {"text": "x"}), ("remote__echo", {"text": "y"}))[
        "results"
    ]
    assert (died["type"], after["type"]) == ("mcp_error", "mcp_error")
    assert "'honest'" in died["message"]
    assert text_of(other) == "y"


@pytest.mark.parametrize(
    ("server", "words"),
    [
        ("exits", "it closed the connection; its operator sees why by starting its command by hand"),
        ("missing", "its command cannot be started: No such file or directory"),
        ("silent", "it did not answer within 1 s"),
        ("babbles", "it did not answer within 1 s"),
        ("nobody", "onnect"),
    ],
)
def test_a_server_that_cannot_be_used_fails_its_tools_with_the_reason(
    start: Callable[..., Attempt], server: str, words: str
) -> None:
    began = time.monotonic()
    attempt = start((f"{server}__good", {}), (f"{server}__good", {}))
    outcome = attempt.outcome(PATIENCE_S)
    assert isinstance(outcome, Completed), outcome
    for error in outcome.output["results"]:
        assert error["type"] == "mcp_error"
        assert error["message"].startswith(f"the MCP server {server!r} cannot be used: ")
        assert words in error["message"]
    assert attempt.kinds == ["agent_started", *["tool_executing", "tool_failed"] * 2, "agent_completed"]
    assert time.monotonic() - began < 15
    assert all_gone(*descendants(attempt.pid))


def test_lines_that_are_no_protocol_are_passed_over(call: Call) -> None:
    good, nonsense, again = call(("dirty__good", {}), ("dirty__nonsense", {}), ("dirty__good", {}))["results"]
    assert text_of(good) == text_of(again) == "ok"
    assert nonsense["type"] == "mcp_error"


def test_strange_tools_are_left_out_and_the_first_of_a_name_counts(call: Call, elsewhere_server: socket.socket) -> None:
    left_out: list[Any] = [(f"strange__{name}", {}) for name in ("with.dot", "unsound", "wide", "deep")]
    output = call(("strange__elsewhere", {"a": 1}), *left_out, schemas=True)
    schemas = {entry["name"]: entry for entry in output["schemas"] if entry["name"].startswith("strange__")}
    assert schemas.keys() == {"strange__good", "strange__elsewhere"}
    assert schemas["strange__good"]["description"] == "first"
    assert len(schemas["strange__elsewhere"]["description"]) == 4000
    elsewhere, *others = output["results"]
    assert "/schema" in elsewhere["message"]
    with pytest.raises(BlockingIOError):
        elsewhere_server.accept()  # nobody came to fetch it
    assert [other["type"] for other in others] == ["unknown_tool"] * len(left_out)


def test_a_server_of_endless_tools_is_cut_off(call: Call) -> None:
    schemas = call(("endless__t0_", {}), schemas=True)["schemas"]
    assert len([entry for entry in schemas if entry["name"].startswith("endless__")]) == 200


def test_a_server_that_changes_its_tools_changes_nothing_in_this_run(call: Call) -> None:
    calls = [("honest__grow", {}), ("honest__grown", {}), ("honest__add", {"a": 1, "b": 1})]
    grow, grown, add = call(*calls)["results"]
    assert text_of(grow) == "grown"
    assert grown["type"] == "unknown_tool"
    assert add["type"] == "mcp_error"  # the server does not have it any more


# What is left


def test_no_process_is_left_of_a_server_that_does_not_want_to_end(start: Callable[..., Attempt]) -> None:
    attempt = start(("stubborn__good", {}), schemas=False, hold=True)
    attempt.wait_for("begun")
    below = descendants(attempt.pid)
    assert len(below) == 2
    assert [psutil.Process(pid).is_running() for pid in below] == [True, True]
    attempt.live.cancel()
    assert attempt.outcome(PATIENCE_S) == Cancelled()
    assert all_gone(*below)


def test_no_process_is_left_of_a_sandbox_that_was_killed(start: Callable[..., Attempt]) -> None:
    attempt = start(("honest__spawn", {}), ("stubborn__good", {}), hold=True)
    attempt.wait_for("begun")
    below = descendants(attempt.pid)
    assert len(below) >= 4
    attempt.kill()
    attempt.outcome(PATIENCE_S)
    assert all_gone(*below)


def test_a_run_that_is_cancelled_while_it_waits_for_a_server_ends_soon(start: Callable[..., Attempt]) -> None:
    for agent in ("caller", "plain_caller"):
        attempt = start(("honest__sleep", {"seconds": 600}), agent=agent)
        assert wait_until(lambda a=attempt: "tool_executing" in a.kinds, PATIENCE_S)  # type: ignore[misc]
        below = descendants(attempt.pid)
        attempt.live.cancel()
        assert attempt.outcome(PATIENCE_S) == Cancelled()
        assert all_gone(*below)


@pytest.mark.parametrize("agent", ["caller", "plain_caller"])
def test_a_cancelled_run_cancels_its_tools(start: Callable[..., Attempt], agent: str) -> None:
    attempt = start(("endless", {}), agent=agent)
    attempt.wait_for("begun")
    attempt.live.cancel()
    assert attempt.outcome(PATIENCE_S) == Cancelled()
    (failed,) = [event.data for event in attempt.events if event.type == "tool_failed"]
    assert failed["error"]["type"] == "cancelled"


# The file


def test_a_mistake_in_the_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_text(json.dumps({"mcpServers": {"files": honest(time_limit=5)}}))
    with (
        pytest.raises(ConfigurationError, match=r"mcp\.json: mcpServers\.files\.time_limit: Extra inputs"),
        a_zygote(AGENTS, LANEWISE_MCP_FILE=str(path)),
    ):
        pass
