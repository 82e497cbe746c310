"""What docs/authoring.md shows does work: its files, its tests, its commands, its table with row level security."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from shared.models import Run
from shared.services import Services
from tests.nodes import Node
from tests.sandboxes import REPOSITORY, a_zygote
from worker.zygote_client import ZygoteClient

PAGE = (REPOSITORY / "docs" / "authoring.md").read_text()
FILES = dict(re.findall(r"^<!-- file: (\S+) -->\n```\w+\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))
TYPED = re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)
AGENTS = {
    "my_agents": "count",
    "prices": "bill",
    "trip": "trip",
    "chat": "chat",
    "orders": "orders",
    "notes": "notes",
    "paper": "paper",
}
BOUND_S = 60


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("page")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture(scope="module")
def zygote(folder: Path) -> Iterator[ZygoteClient]:
    modules = ",".join([*AGENTS, "survey"])
    with a_zygote(modules, PYTHONPATH=f"{REPOSITORY}:{folder}") as running:
        yield running


@pytest.fixture
def node(services: Services, zygote: ZygoteClient) -> Iterator[Node]:
    with Node.start(services, zygote) as running:
        yield running


@pytest.fixture
def notes_table(superuser: sa.Connection) -> Iterator[None]:
    superuser.execute(sa.text(FILES["notes.sql"]))
    yield
    superuser.execute(sa.text("DROP SCHEMA notes CASCADE"))


def ended(node: Node, run: Run) -> Run:
    done = node.wait(run, timeout_s=20)
    assert done.status == "completed", done.error
    return done


def test_no_block_is_passed_over() -> None:
    assert len(FILES) == PAGE.count("<!-- file: ") == len(re.findall(r"^```(?!console)\w", PAGE, re.MULTILINE))
    assert {f"{name}.py" for name in (*AGENTS, "survey", "test_agents")} <= FILES.keys()


def test_the_smallest_agent_is_the_readmes() -> None:
    assert FILES["my_agents.py"] in (REPOSITORY / "README.md").read_text()


def test_the_tests_pass(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", "test_agents.py"],
        cwd=folder, capture_output=True, text=True, timeout=BOUND_S, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert f"{FILES['test_agents.py'].count('def test_')} passed" in done.stdout


def test_the_commands_do_what_they_should(tmp_path: Path) -> None:
    assert TYPED
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    said = ""
    for line in TYPED:
        argv = ("bash", "-euc", line)
        done = subprocess.run(
            argv, cwd=tmp_path, env={**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY)},
            capture_output=True, text=True, timeout=BOUND_S, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
        said += done.stdout
    assert json.dumps({"words": 3}, indent=2) in said


def test_every_agent_is_found(zygote: ZygoteClient) -> None:
    assert zygote.named == {
        **{module: {agent: agent.capitalize()} for module, agent in AGENTS.items()},
        "survey": {"sum": "Sum", "survey": "Survey"},
    }


def test_each_runs_in_a_sandbox(node: Node) -> None:
    assert ended(node, node.begin("bill", user_id="user-a")).output == 8
    run = node.begin("trip", user_id="user-b")
    assert ended(node, run).output == {
        "flight": f"flight booked under {run.id}-flight", "hotel": f"hotel booked under {run.id}-hotel",
    }  # fmt: skip
    run = node.begin("orders", user_id="user-f")
    assert ended(node, run).output == f"report of order {run.id}"
    assert ended(node, node.begin("paper", user_id="user-c")).output == {"see": "paper.md"}
    assert ended(node, node.begin("survey", {"first": "a b", "second": "c"}, user_id="user-d")).output == {"words": 3}
    assert ended(node, node.begin("chat", {"text": "hello"}, user_id="user-e")).output == ["hello"]


@pytest.mark.usefixtures("notes_table")
def test_the_table_is_each_users_own(node: Node, superuser: sa.Connection) -> None:
    assert ended(node, node.begin("notes", {"text": "first"}, user_id="alice")).output == {"note": 1, "notes": 1}
    assert ended(node, node.begin("notes", {"text": "second"}, user_id="alice")).output == {"note": 2, "notes": 2}
    assert ended(node, node.begin("notes", {"text": "his"}, user_id="bob")).output == {"note": 3, "notes": 1}
    rows = superuser.execute(sa.text("SELECT user_id, text FROM notes.note ORDER BY id")).all()
    assert [tuple(row) for row in rows] == [("alice", "first"), ("alice", "second"), ("bob", "his")]
