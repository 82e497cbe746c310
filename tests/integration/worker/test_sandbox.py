"""What a run in a sandbox can do and what it can see."""

from __future__ import annotations

import base64
import signal
import stat
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
import redis

from lanewise.embedded import EmbeddedRedis
from lanewise.process import wait_until
from shared.errors import ConfigurationError, UnavailableError
from shared.events import Event
from shared.frames import encode_frame
from shared.outcomes import Completed, Failed, Lost
from tests.integration.worker.conftest import Begin
from tests.sandboxes import AGENTS, CANARIES, REPOSITORY, a_zygote, gone
from worker.walls import NICE
from worker.zygote_client import PASSED_ENVIRONMENT, ZygoteClient

OWN_NAMES = {"MALLOC_ARENA_MAX", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "HOME", "TMPDIR"}


def completed(outcome: object) -> object:
    assert isinstance(outcome, Completed), outcome
    return outcome.output


# Its work


def test_the_zygote_says_what_it_has(zygote: ZygoteClient) -> None:
    agents = {entry["name"]: entry for entry in zygote.agents}
    assert {"echo", "chatty", "data"} <= agents.keys()
    assert agents["chatty"]["input_schema"]["required"] == ["events"]
    assert agents["wait"]["max_attempts"] == 1


def test_a_result_comes_back_with_the_context_of_the_run(begin: Begin) -> None:
    attempt = begin("echo", {"text": "hällo"}, user_id="bob")
    assert completed(attempt.outcome()) == {"input": {"text": "hällo"}, "user_id": "bob", "depth": 1}
    assert attempt.kinds == ["agent_started", "agent_completed"]


def test_events_come_in_order_and_all_before_the_result(begin: Begin) -> None:
    attempt = begin("chatty", {"events": 500})
    assert completed(attempt.outcome()) == {"count": 500}
    assert attempt.texts == [f"{number}:" for number in range(500)]
    assert attempt.kinds == ["agent_started", *["agent_token"] * 500, "agent_completed"]
    owners = {(event.user_id, event.run_id, event.attempt, event.agent) for event in attempt.events}
    assert owners == {("alice", attempt.run.id, 1, "chatty")}


def test_nothing_is_lost_while_the_log_is_behind(begin: Begin) -> None:
    """The log takes nothing for a while: the sandbox waits, and what it said before and after arrives in order."""
    behind = threading.Event()
    behind.set()
    refused = threading.Event()
    kept: list[Event] = []

    def put(event: Event, timeout_s: float) -> bool:
        del timeout_s
        if behind.is_set() and len(kept) >= 20:
            refused.set()
            return False
        kept.append(event)
        return True

    attempt = begin("chatty", {"events": 400, "size": 2000}, put_event=put)  # far more than the socket can hold
    assert refused.wait(5)
    assert not attempt.sandbox.exited.wait(0.3)
    assert len(kept) == 20
    behind.clear()
    assert completed(attempt.outcome()) == {"count": 400}
    assert [event.data["text"].split(":")[0] for event in kept if event.type == "agent_token"] == list(
        map(str, range(400))
    )


def test_a_run_that_ended_while_the_log_was_behind_has_its_result(begin: Begin) -> None:
    behind = threading.Event()
    behind.set()
    kept: list[Event] = []

    def put(event: Event, timeout_s: float) -> bool:
        del timeout_s
        if behind.is_set():
            time.sleep(0.01)
            return False
        kept.append(event)
        return True

    attempt = begin("chatty", {"events": 50}, put_event=put)  # so few that the sandbox does not have to wait
    assert attempt.sandbox.exited.wait(5)
    time.sleep(0.1)  # in which the supervisor could give it up
    behind.clear()
    assert completed(attempt.outcome()) == {"count": 50}
    assert len(kept) == 52


def test_a_result_counts_whatever_the_runner_still_had_to_say(begin: Begin) -> None:
    """An agent that calls and does not wait for the answer: it has ended before the runner has answered."""
    call = encode_frame({"t": "call", "id": 1, "method": "store.get", "params": {"key": "k"}})

    def slow(method: str, parameters: object) -> None:
        del method, parameters
        time.sleep(0.05)

    frames = base64.b64encode(call * 5).decode()
    attempt = begin("hostile", {"bytes": frames, "then": "return"}, answer=slow)
    assert completed(attempt.outcome()) == {"returned": True}


def test_a_run_that_waits_for_the_log_can_be_cancelled(begin: Begin) -> None:
    refused = threading.Event()

    def put(event: Event, timeout_s: float) -> bool:
        del event, timeout_s
        refused.set()
        return False

    attempt = begin("chatty", {"events": 400, "size": 2000}, put_event=put)
    assert refused.wait(5)
    attempt.live.cancel()
    assert type(attempt.outcome(2)).__name__ == "Cancelled"


def test_calls_are_answered(begin: Begin) -> None:
    attempt = begin("keep", {"value": {"a": [1, None]}})
    assert completed(attempt.outcome()) == {"before": None, "after": {"a": [1, None]}}
    assert attempt.store == {"value": {"a": [1, None]}}


def test_a_refused_call_fails_the_agent_that_does_not_expect_it(begin: Begin) -> None:
    def refuse(method: str, parameters: object) -> None:
        del method, parameters
        raise UnavailableError("the store is away; try again shortly")

    outcome = begin("keep", {"value": 1}, answer=refuse).outcome()
    assert outcome == Failed("unavailable", "the store is away; try again shortly")


def test_tools_work_in_both_ways_and_grants_are_asked_for(begin: Begin) -> None:
    attempt = begin("tools")
    output = completed(attempt.outcome())
    assert isinstance(output, dict)
    assert (output["awaited"], output["called"], output["secret"]) == ("A", "B", None)
    assert output["error"]["type"] == "not_granted"
    assert attempt.kinds[1:-1] == [*["tool_executing", "tool_completed"] * 2, "tool_denied"]
    granted = completed(begin("tools", granted=("secret",)).outcome())
    assert isinstance(granted, dict)
    assert granted["secret"] == "told"


def test_a_failure_is_typed(begin: Begin) -> None:
    attempt = begin("fail")
    assert attempt.outcome() == Failed("ValueError", "no good")
    assert attempt.kinds == ["agent_started", "agent_failed"]


def test_a_wrong_input_names_the_field(begin: Begin) -> None:
    outcome = begin("chatty", {"events": "many"}).outcome()
    assert isinstance(outcome, Failed)
    assert (outcome.type, outcome.message.split(":")[0]) == ("invalid", "events")


# Its walls


@pytest.fixture
def seen(begin: Begin) -> dict[str, object]:
    """What a sandbox saw."""
    output = completed(begin("look").outcome())
    assert isinstance(output, dict)
    return output


def test_the_environment_holds_the_allowed_names_and_no_secret(seen: dict[str, dict[str, str]]) -> None:
    environment = seen["environment"]
    assert set(environment) <= {*PASSED_ENVIRONMENT, *OWN_NAMES}
    assert environment["LANEWISE_AGENTS"] == AGENTS
    assert not [value for value in environment.values() if "canary" in value]


def test_what_is_named_is_passed_and_nothing_more() -> None:
    with a_zygote(passed=("A_MODEL_KEY",), A_MODEL_KEY="key", ANOTHER="no") as zygote:
        sandbox = zygote.fork(lambda: None)
        assert wait_until(lambda: sandbox.pid is not None, 5)
        for pid in (zygote.pid, sandbox.pid):
            environment = Path(f"/proc/{pid}/environ").read_text()
            assert "A_MODEL_KEY=key" in environment
            assert "ANOTHER" not in environment
            assert not [name for name, value in CANARIES.items() if name in environment or value in environment]
        sandbox.sock.close()


def test_a_sandbox_has_a_folder_of_its_own_which_is_removed(begin: Begin) -> None:
    outputs = []
    for attempt in [begin("look") for _ in range(2)]:
        output = completed(attempt.outcome())
        assert isinstance(output, dict)
        outputs.append(output)
    for output in outputs:
        assert output["files"] == ["own.txt"]
        assert output["mode"] == stat.S_IRWXU
        assert output["environment"]["HOME"] == output["environment"]["TMPDIR"] == output["folder"]
        assert wait_until(lambda folder=Path(output["folder"]): not folder.exists(), 2)  # type: ignore[misc]
    assert outputs[0]["folder"] != outputs[1]["folder"]


def test_only_standard_streams_and_its_socket_are_inherited(seen: dict[str, dict[str, str]]) -> None:
    fds = seen["fds"]
    assert {fds[number] for number in "012"} == {"/dev/null"}
    loop = ["anon_inode:[eventpoll]", "socket", "socket"]  # what its own event loop opened
    others = sorted(
        target.split(":[")[0] if "socket" in target else target for target in fds.values() if target != "/dev/null"
    )
    assert others == sorted([*loop, "socket", f"/proc/{seen['pid']}"])  # that of its own, which its walls leave open


def test_a_sandbox_leads_a_session_of_its_own_and_leaves_no_core(seen: dict[str, object]) -> None:
    assert seen["group"] == seen["session"] == seen["pid"]
    assert seen["core"] == [0, 0]


def test_a_sandbox_computes_when_the_worker_and_the_stores_do_not(seen: dict[str, object]) -> None:
    assert seen["nice"] == NICE
    assert seen["shares"] in {None, str(NICE)}  # None: this kernel knows no shares of sessions


def test_redis_answers_a_sandbox_nothing(begin: Begin, tmp_path: Path) -> None:
    commands = ["PING", "INFO", "KEYS *", "GET key", "SET key mine", "PUBLISH channel x", "SUBSCRIBE channel",
                "CONFIG GET *", "ACL WHOAMI", "CLIENT LIST", "FLUSHALL", "SHUTDOWN NOSAVE"]  # fmt: skip
    with EmbeddedRedis(tmp_path) as server, closing(redis.Redis.from_url(server.admin_url)) as admin:
        admin.set("key", "kept")
        answers = completed(begin("ask_redis", {"port": server.port, "commands": commands}).outcome())
        assert answers == dict.fromkeys(commands, "-NOAUTH")
        assert admin.get("key") == b"kept"

        admin.acl_setuser("default", enabled=True, nopass=True, keys=["*"], commands=["+@all"])  # as Redis comes
        commands.remove("SHUTDOWN NOSAVE")
        answers = completed(begin("ask_redis", {"port": server.port, "commands": commands}).outcome())
        assert isinstance(answers, dict)
        assert answers["PING"] == "+PONG"
        assert "-NOAUTH" not in answers.values()
        assert admin.dbsize() == 0


def test_what_an_agent_prints_goes_nowhere(begin: Begin, capfd: pytest.CaptureFixture[str]) -> None:
    with a_zygote() as zygote:
        begin("look", zygote=zygote).outcome()
    printed = capfd.readouterr()
    assert "canary-of-a-print" not in printed.out + printed.err


@pytest.mark.parametrize("how", ["at once", "bit by bit"])
def test_memory_is_limited_and_the_error_says_so(begin: Begin, how: str) -> None:
    neighbour = begin("wait")
    neighbour.wait_for()
    outcome = begin("eat", {"how": how}).outcome()
    assert isinstance(outcome, Failed)
    assert outcome.type == "MemoryError"
    assert "memory limit" in outcome.message
    assert not neighbour.sandbox.exited.is_set()


# How it ends


@pytest.mark.parametrize(
    ("run_input", "reason"),
    [
        ({"signal": signal.SIGKILL}, "was killed by signal 9 (SIGKILL)"),
        ({"signal": signal.SIGABRT}, "was killed by signal 6 (SIGABRT)"),
        ({"signal": signal.SIGRTMIN + 3}, f"was killed by signal {signal.SIGRTMIN + 3} (real-time)"),
        ({"status": 0}, "exited with status 0"),
        ({"status": 3}, "exited with status 3"),
    ],
)
def test_a_sandbox_that_dies_is_lost_with_the_reason(begin: Begin, run_input: dict[str, int], reason: str) -> None:
    outcome = begin("die", run_input).outcome(2)
    assert outcome == Lost("sandbox_died", f"the sandbox {reason} before it gave a result")


def test_a_crash_in_c_is_a_death_like_any_other(begin: Begin) -> None:
    outcome = begin("segfault").outcome(2)
    assert isinstance(outcome, Lost)
    assert "signal 11 (SIGSEGV)" in outcome.message


def test_a_sandbox_is_gone_when_its_result_is_there(begin: Begin) -> None:
    attempt = begin("echo")
    pid = attempt.pid
    attempt.outcome()
    assert attempt.sandbox.exited.is_set()
    assert gone(pid)
    assert attempt.sandbox.max_rss_kb > 0


# The start of a zygote


def refused(module: str, folder: Path) -> str:
    """Returns why no zygote starts with a module of this folder."""
    with pytest.raises(ConfigurationError) as caught, a_zygote(module, PYTHONPATH=f"{folder}:{REPOSITORY}"):
        pytest.fail("it started")
    return caught.value.message


def test_an_unsound_agent_stops_the_start_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "unsound.py"
    path.write_text("x = 1\nraise RuntimeError('no')\n")
    assert refused("unsound", tmp_path) == f"cannot import unsound: RuntimeError: no ({path}, line 2)"


def test_a_module_that_ends_the_zygote_stops_the_start_at_once(tmp_path: Path) -> None:
    (tmp_path / "ending.py").write_text("import os\nos._exit(7)\n")
    assert refused("ending", tmp_path) == "the zygote ended while it imported the agents: it exited with status 7"
    (tmp_path / "crashing.py").write_text("import ctypes\nctypes.string_at(0)\n")
    assert "was killed by signal 11 (SIGSEGV)" in refused("crashing", tmp_path)
