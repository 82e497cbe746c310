"""`lanewise run-agent`: one agent in a real sandbox, without a fleet and without a store."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from lanewise.cli import main
from lanewise.process import wait_until
from tests.sandboxes import REPOSITORY, all_gone, descendants

BOUND_S = 60
AGENTS = '''
import json
import os
import time

from lanewise import Agent, Retry, Tool
from pydantic import BaseModel


class Secret(Tool):
    """For those who were granted it."""

    name = "secret"
    permission = "granted"

    def run(self, context, parameters):
        return 42


class Text(BaseModel):
    text: str


class Count(Agent):
    """Counts words."""

    name = "count"
    Input = Text
    time_limit_s = 30

    async def execute(self, context, run):
        run.emit.thinking("counting")
        run.emit.progress(0.5, "half way")
        return {"words": len(run.input.text.split())}


def helper():
    return json.loads("{")


class Do(Agent):
    """Does what the test wants."""

    name = "do"
    tools = (Secret,)

    def execute(self, context, run):
        return getattr(self, run.raw_input["action"])(run)

    def environment(self, run):
        return {"pid": os.getpid(), "names": sorted(os.environ), "cwd": os.listdir(".")}

    def fail(self, run):
        helper()

    def busy(self, run):
        raise Retry("the provider is busy", after_s=run.raw_input.get("after_s"))

    def die(self, run):
        os._exit(3)

    def database(self, run):
        with run.db():
            pass

    def memory(self, run):
        return len(bytearray(4 * 2**30))

    def secret(self, run):
        return run.tools.call("secret")

    def save(self, run):
        run.artifacts.save("a.md", "# saved", "text/markdown")
        run.state.save({"n": 1})
        return run.state.step("once", lambda: "done")

    def chatty(self, run):
        for number in range(5000):
            run.emit.token(f"{number} ")

    def wait(self, run):
        run.emit.thinking("begun")
        while not run.cancelled:
            time.sleep(0.01)

    def sleep(self, run):
        run.emit.thinking("begun")
        time.sleep(60)
'''

FLOW = '''
from lanewise import Agent, Step, Workflow


class Flow(Agent):
    """Has another agent work."""

    name = "flow"
    workflows = (Workflow("w", Step("s", "count", input=lambda results: {"text": "a b"})),)

    async def execute(self, context, run):
        return (await run.workflows.orchestrate_workflow("w", context, run))["s"]
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(AGENTS)
    return tmp_path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "lanewise.cli", "run-agent", *arguments]


def environment(**further: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(REPOSITORY), **further}


def run_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=BOUND_S, check=False
    )


def run_agent(folder: Path, *arguments: str, **further: str) -> Result:
    """Runs the command in this process, which has imported it already; zygote and sandbox are real all the same."""
    logging = structlog.get_config()
    try:
        with contextlib.chdir(folder):
            given = {"PYTHONPATH": str(REPOSITORY), **further}
            return CliRunner().invoke(main, ["run-agent", *arguments], prog_name="lanewise", env=given)
    finally:
        structlog.configure(**logging)


def do(folder: Path, action: str, *arguments: str, **further: str) -> Result:
    return run_agent(folder, "mine:Do", "--input", json.dumps({"action": action}), *arguments, **further)


@contextmanager
def begun(folder: Path, action: str) -> Iterator[subprocess.Popen[str]]:
    """Yields a run whose agent has begun; ends what is left of it."""
    arguments = ("mine:Do", "--input", json.dumps({"action": action}), "--json")
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        try:
            assert process.stdout is not None
            while '"begun"' not in (line := process.stdout.readline()):
                assert line, "it ended before it began"
            yield process
        finally:
            if process.poll() is None:
                process.kill()


def the_run(process: subprocess.Popen[str]) -> dict[str, Any]:
    output, _ = process.communicate(timeout=BOUND_S)
    run: dict[str, Any] = json.loads(output.splitlines()[-1])
    return run


def test_events_and_result_for_people(folder: Path) -> None:
    done = run_process(folder, "mine:Count", "--input", '{"text": "a b c"}')
    assert done.returncode == 0
    assert json.loads(done.stdout) == {"words": 3}
    said = [line.split(maxsplit=3)[2:] for line in done.stderr.splitlines()]
    assert [" ".join(words) for words in said] == [
        "count run_started", "count agent_started", "count agent_thinking  counting",
        "count agent_progress  50% half way", "count agent_completed", "count run_completed",
    ]  # fmt: skip


def test_events_and_run_as_json(folder: Path) -> None:
    (folder / "input.json").write_text('{"text": "a b c"}')
    done = run_process(folder, "mine:Count", "--input", "@input.json", "--json")
    *events, run = [json.loads(line) for line in done.stdout.splitlines()]
    assert (done.returncode, done.stderr) == (0, "")
    assert [event["run_seq"] for event in events] == list(range(1, 7))
    assert {event["run_id"] for event in events} == {run["id"]}
    assert events[-1]["type"] == "run_completed"
    assert (run["agent"], run["status"], run["output"]) == ("count", "completed", {"words": 3})
    assert run["progress"] == {"fraction": 0.5, "note": "half way"}


def test_it_is_a_sandbox(folder: Path) -> None:
    done = do(folder, "environment", LANEWISE_SECRET_KEY="s" * 32, LANEWISE_SANDBOX_ENV="A_KEY", A_KEY="x", ANOTHER="y")
    found = json.loads(done.stdout)
    assert found["pid"] != os.getpid()
    assert {"A_KEY"} == {"A_KEY", "ANOTHER", "LANEWISE_SECRET_KEY"} & set(found["names"])
    assert found["cwd"] == []


def test_an_error_names_the_authors_line_and_none_of_ours(folder: Path) -> None:
    done = do(folder, "fail")
    assert done.exit_code == 1
    assert done.stdout.startswith("JSONDecodeError: Expecting property name")
    trace = [line for line in done.stderr.splitlines() if line.startswith("  ")]
    assert f"{folder}/mine.py:" in trace[0]
    assert trace[0].endswith(" in execute")
    assert "in helper" in trace[2]
    assert "Traceback" not in done.stderr
    assert f"{REPOSITORY}/worker" not in done.stderr


@pytest.mark.parametrize(("after_s", "pause"), [(2.5, " after 2.5 s"), (None, "")])
def test_an_agent_that_asks_for_another_attempt(folder: Path, after_s: float | None, pause: str) -> None:
    asked = json.dumps({"action": "busy", "after_s": after_s})
    done = run_agent(folder, "mine:Do", "--input", asked)
    assert done.exit_code == 1
    assert done.stdout == "retry: the provider is busy (worth another try)\n"
    assert done.stderr.splitlines()[-1] == f"a fleet would try it again{pause}: 3 attempts in all"
    assert "in busy" in done.stderr


def test_a_wrong_input_names_the_field(folder: Path) -> None:
    done = run_agent(folder, "mine:Count", "--input", '{"txt": 1}')
    assert (done.exit_code, done.stdout) == (1, "invalid: text: Field required\n")
    assert "mine.py" not in done.stderr


@pytest.mark.parametrize(
    ("action", "options", "said"),
    [
        ("die", [], "sandbox_died: the sandbox exited with status 3 before it gave a result (worth another try)"),
        ("database", [], "there is no database here: `lanewise run-agent` and tests have none"),
        ("memory", ["--memory", "256"], "MemoryError: the run reached the memory limit of its sandbox"),
        ("sleep", ["--time-limit", "0.3"], "timed_out: the run reached its time limit of 0.3 s"),
        ("secret", [], "secret: the user has no grant for the tool 'secret'"),
    ],
)
def test_limits_are_those_of_a_fleet(folder: Path, action: str, options: list[str], said: str) -> None:
    done = do(folder, action, *options)
    assert done.exit_code == 1
    assert said in done.stdout
    assert ("a fleet would try it again: 3 attempts in all" in done.stderr) == (action == "die")


def test_a_workflow_finds_the_agents_that_the_environment_names(folder: Path) -> None:
    (folder / "flow.py").write_text(FLOW)
    assert json.loads(run_agent(folder, "flow:Flow", LANEWISE_AGENTS="mine:Do,mine").stdout) == {"words": 2}
    missing = run_agent(folder, "flow:Flow")
    assert missing.exit_code == 2
    assert "no agent is called 'count'" in missing.stderr
    assert "name its class in LANEWISE_AGENTS" in missing.stderr


def test_a_granted_tool(folder: Path) -> None:
    assert do(folder, "secret", "--granted", "secret").stdout == "42\n"


def test_files_are_saved_where_one_wants_them(folder: Path) -> None:
    done = do(folder, "save", "--artifacts", "out/files")
    assert done.stdout == "done\n"
    assert (folder / "out" / "files" / "a.md").read_text() == "# saved"
    assert "artifact a.md (text/markdown, 7 bytes): saved in out/files" in done.stderr
    assert "artifact a.md (text/markdown, 7 bytes): --artifacts DIR saves it" in do(folder, "save").stderr
    refused = do(folder, "save", "--artifacts", "mine.py/below")
    assert refused.exit_code == 1
    assert refused.stderr.endswith("lanewise: mine.py/below/a.md cannot be written: Not a directory\n")


def test_no_event_is_lost_when_there_are_many(folder: Path) -> None:
    arguments = ("mine:Do", "--input", '{"action": "chatty"}', "--json")
    with subprocess.Popen(
        command(*arguments), cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True
    ) as process:
        assert not wait_until(lambda: process.poll() is not None, 3)  # nobody reads: the agent has to wait
        output, _ = process.communicate(timeout=BOUND_S)
    lines = [json.loads(line) for line in output.splitlines()]
    texts = [line["data"]["text"] for line in lines if line.get("type") == "agent_token"]
    assert texts == [f"{number} " for number in range(5000)]


def test_ctrl_c_cancels(folder: Path) -> None:
    with begun(folder, "wait") as process:
        process.send_signal(signal.SIGINT)
        run = the_run(process)
    assert (run["status"], process.returncode) == ("cancelled", 1)


def test_a_second_ctrl_c_ends_an_agent_that_does_not_listen(folder: Path) -> None:
    with begun(folder, "sleep") as process:
        below = descendants(process.pid)
        assert len(below) >= 2  # zygote and sandbox
        process.send_signal(signal.SIGINT)
        assert not wait_until(lambda: process.poll() is not None, 0.5)
        process.send_signal(signal.SIGINT)
        assert wait_until(lambda: process.poll() is not None, 3)  # within the grace that the first one began
        assert (the_run(process)["status"], process.returncode) == ("cancelled", 1)
    assert all_gone(*below)


def test_a_terminal_says_how_to_end_it(folder: Path) -> None:
    ours, theirs = pty.openpty()
    said = b""
    with subprocess.Popen(
        command("mine:Do", "--input", '{"action": "sleep"}'), cwd=folder, env=environment(TERM="xterm", COLUMNS="120"),
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    ) as process:  # fmt: skip
        try:
            for awaited in (b"begun", b"Ctrl-C again ends it at once", b"was cancelled"):
                while awaited not in said:
                    assert select.select([ours], [], [], BOUND_S)[0], said
                    said += os.read(ours, 65_536)
                process.send_signal(signal.SIGINT)
        finally:
            process.kill()
    os.close(ours)
    os.close(theirs)
    assert b"starting a sandbox" in said


def test_killing_it_leaves_nothing(folder: Path) -> None:
    with begun(folder, "sleep") as process:
        below = descendants(process.pid)
        process.kill()
    assert all_gone(*below, within_s=5)


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("mine", "mine has 2 agents: name one, mine:Count or mine:Do"),
        ("mine:Cont", "defines no 'Cont'; did you mean 'Count'?"),
        ("mine:Text", "mine:Text: mine.Text in"),
        ("mind:Count", "No module named 'mind'; did you mean 'mine'?"),
        ("mine.Count", "a class in a module is named as mine:Count"),
        ("broken", "cannot import broken: SyntaxError: '(' was never closed ({folder}/broken.py, line 2)"),
        ("unsound", "unsound.A has no execute(self, context, run) ({folder}/unsound.py, line 2)"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(folder: Path, target: str, said: str) -> None:
    (folder / "broken.py").write_text("x = 1\nprint(\n")
    (folder / "unsound.py").write_text('from lanewise import Agent\nclass A(Agent):\n    """A."""\n    name = "a"\n')
    done = run_agent(folder, target)
    assert (done.exit_code, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("lanewise: ")
    assert said.format(folder=folder) in line


def test_an_input_that_is_no_json_is_refused_before_anything_starts(folder: Path) -> None:
    done = run_agent(folder, "mine:Count", "--input", "text")
    assert done.exit_code == 2
    assert "not JSON" in done.stderr
