"""The path of an author: new-agent, edit, run-agent, test, install, restart, submit by REST, watch.

The fleet that it leads to has the examples, too: what their page tells people to type does work there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fleet.fleet import READY_S, ROOT, Fleet, new_user, until

BOUND_S = 60
START_BOUND_S = 40
INSTALL = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
TEXT = {"text": "one two three"}
WANTED = {"words": 3, "longest": 5}
# What the author changes: the agent says how long the longest word is, too.
EDITS = {
    "word_count/agent.py": (
        'return {"words": counted.unwrap()}',
        'return {"words": counted.unwrap(), "longest": max(map(len, run.input.text.split()))}',
    ),
    "tests/test_agent.py": ('== {"words": 3}', '== {"words": 3, "longest": 5}'),
}

PAGE = (ROOT / "examples" / "README.md").read_text()
TYPED = re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)
(EXAMPLES,) = re.findall(r"^LANEWISE_AGENTS=(\S+) make up$", PAGE, re.MULTILINE)
(PACKAGE,) = re.findall(r"^pip install \./(\S+)$", PAGE, re.MULTILINE)

BROKEN = '''from lanewise import Agent

class Broken(Agent):
    """Shares."""
    name = "broken"
    seen = []

    def execute(self, context, run): ...
'''


def run(*argv: str, cwd: Path, **environment: str) -> str:
    """Runs a module of Python as a shell would; returns what it printed."""
    done = subprocess.run(
        (sys.executable, "-m", *argv), cwd=cwd, capture_output=True, text=True, timeout=BOUND_S, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def edit(package: Path) -> None:
    for name, (before, after) in EDITS.items():
        text = (package / name).read_text()
        assert text.count(before) == 1
        (package / name).write_text(text.replace(before, after))


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package that `new-agent` has written and its author changed."""
    folder = tmp_path_factory.mktemp("author")
    run("lanewise.cli", "new-agent", "word-count", cwd=folder)
    edit(folder / "word-count")
    return folder / "word-count"


@pytest.fixture(scope="module")
def fleet(written: Path) -> Iterator[Fleet]:
    """A fleet whose worker was started again once pip had installed that package, and the examples' one, beside."""
    with tempfile.TemporaryDirectory(prefix="lanewise-installed-") as installed, ExitStack() as stack:
        source = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "source"
        shutil.copytree(ROOT / PACKAGE, source)  # building leaves files beside the sources
        env = {"LANEWISE_AGENTS": EXAMPLES, "PYTHONPATH": installed}
        running = stack.enter_context(Fleet.start("--no-flower", env=env))
        user = new_user()
        client = running.client(user)
        answer = running.http(user).post("/v1/runs", json={"agent": "word-count", "input": TEXT})
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown_agent")
        run("pip", "install", *INSTALL, "--target", installed, str(written), str(source), cwd=written)
        running.process("worker").terminate()  # imports are its zygote's: nothing else need be started again
        until(lambda: "word-count" in {agent["name"] for agent in client.agents()}, READY_S, "the new agent")
        yield running


def test_the_path_of_a_stranger(written: Path, fleet: Fleet, tmp_path: Path) -> None:
    local = ("lanewise.cli", "run-agent", "word_count.agent:WordCount", "--json", "--input", json.dumps(TEXT))
    *_, here = [json.loads(line) for line in run(*local, cwd=written).splitlines()]
    assert (here["status"], here["output"]) == ("completed", WANTED)
    assert "2 passed" in run("pytest", "-q", "-p", "no:cacheprovider", cwd=written)

    user = new_user("author")
    (published,) = [item for item in fleet.client(user).agents() if item["name"] == "word-count"]
    assert published["description"] == "Counts the words of a text."
    assert published["input_schema"]["required"] == ["text"]
    submitted = fleet.submit(user, "word-count", TEXT)
    client = {"LANEWISE_URL": fleet.url, "LANEWISE_TOKEN": fleet.token(user)}
    watched = run("lanewise.cli", "watch", submitted["id"], "--json", cwd=tmp_path, **client).splitlines()
    *events, there = [json.loads(line) for line in watched]
    assert (there["status"], there["output"]) == ("completed", WANTED)
    assert [event["run_seq"] for event in events] == list(range(1, len(events) + 1))
    # Whether a sweep comes before the admission, and tells the run where it stands, is chance.
    assert [event["type"] for event in events if event["type"] != "run_position"] == [
        "run_queued", "run_started", "agent_started", "agent_thinking", "tool_executing", "tool_completed",
        "agent_progress", "agent_completed", "run_completed",
    ]  # fmt: skip
    assert there.keys() == here.keys()  # what run-agent shows is what a fleet shows


@pytest.fixture(scope="module")
def shell(fleet: Fleet) -> dict[str, str]:
    """The environment of somebody who has activated the venv and has a token."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "LANEWISE_URL": fleet.url, "LANEWISE_TOKEN": fleet.token(new_user())}


@pytest.mark.parametrize("line", TYPED)
def test_a_line_of_the_examples_page_does_what_it_should(shell: dict[str, str], line: str) -> None:
    argv = ("bash", "-euc", line)
    done = subprocess.run(argv, cwd=ROOT, env=shell, capture_output=True, text=True, timeout=BOUND_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert '"problem"' not in done.stdout


def test_a_broken_agent_stops_the_start_and_says_where_once(tmp_path: Path) -> None:
    path = tmp_path / "broken_agents.py"
    path.write_text(BROKEN)
    argv = (sys.executable, "-m", "lanewise.cli", "up", "--no-flower", "--data-dir", str(tmp_path / "data"))
    environment = {"LANEWISE_AGENTS": "broken_agents", "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"}
    done = subprocess.run(
        argv, cwd=tmp_path, env={**os.environ, **environment}, capture_output=True, text=True, timeout=START_BOUND_S,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.count("broken_agents.Broken.seen is a list on the class") == 1
    assert f"({path}, line 6)" in done.stderr
