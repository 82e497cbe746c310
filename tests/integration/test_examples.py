"""The examples do what their page says: each runs in a real sandbox, the package is installed by pip."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from shared.models import Artifact, Document, Run
from shared.services import Services
from tests.nodes import Node
from tests.sandboxes import REPOSITORY, a_zygote
from worker.zygote_client import ZygoteClient

EXAMPLES = REPOSITORY / "examples"
PAGE = (EXAMPLES / "README.md").read_text()
SUBMITTED = {
    agent: json.loads(run_input)
    for line in PAGE.splitlines()
    if line.startswith("$ lanewise submit ")
    for _, _, _, agent, _, run_input, *_ in [shlex.split(line)]
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which pip has installed the example package."""
    folder = tmp_path_factory.mktemp("packages")
    source = shutil.copytree(EXAMPLES / "hello-package", folder / "source")  # building leaves files beside the sources
    target = folder / "target"
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    command = [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


@pytest.fixture(scope="module")
def zygote(packages: Path) -> Iterator[ZygoteClient]:
    """A zygote with what the page tells to start, and with the package on its path."""
    (agents,) = re.findall(r"^LANEWISE_AGENTS=(\S+) make up$", PAGE, re.MULTILINE)
    with a_zygote(agents, PYTHONPATH=f"{REPOSITORY}:{packages}") as running:
        yield running


@pytest.fixture
def node(services: Services, zygote: ZygoteClient) -> Iterator[Node]:
    with Node.start(services, zygote) as running:
        yield running


def output(node: Node, run: Run) -> dict[str, Any]:
    ended = node.wait(run, timeout_s=20)
    assert ended.status == "completed", ended.error
    assert isinstance(ended.output, dict)
    return ended.output


def upload(services: Services, user_id: str, name: str, content: bytes) -> None:
    values = {"content_type": "text/plain", "size": len(content), "sha256": "0", "content": content}
    with services.database.user_session(user_id) as session:
        session.execute(sa.insert(Document), {"user_id": user_id, "name": name, **values})


def test_every_example_is_on_the_page_and_found(zygote: ZygoteClient) -> None:
    built_in = {
        entry.name for entry in entry_points(group="lanewise.agents") if entry.dist and entry.dist.name == "lanewise"
    }
    found = {entry["name"]: entry for entry in zygote.agents if entry["name"] not in built_in}
    assert found.keys() == SUBMITTED.keys() == {"count", "top_words", "primes", "journal", "compare", "hello"}
    for name, entry in found.items():
        assert entry["description"]
        assert f"`{name}`" in PAGE
    files = {path.name for path in EXAMPLES.iterdir() if not path.name.startswith(("__", "."))}
    assert files == set(re.findall(r"^\| \[([\w./-]+?)/?\]", PAGE, re.MULTILINE)) | {"README.md"}


def test_the_readme_shows_the_smallest_one() -> None:
    (shown,) = re.findall(
        r"^```python\n(from lanewise import Agent.*?)^```$",
        (REPOSITORY / "README.md").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert (EXAMPLES / "echo.py").read_text().endswith(shown)


def test_count(node: Node) -> None:
    run = node.begin("count", SUBMITTED["count"])
    assert output(node, run) == {"words": 3}
    assert node.wait_for_kind(run, "agent_thinking")["data"] == {"text": "counting"}


def test_a_wrong_input_names_the_field(node: Node) -> None:
    ended = node.wait(node.begin("count", {"words": "one"}))
    assert ended.error is not None
    assert (ended.error["type"], ended.error["message"]) == ("invalid", "text: Field required")


def test_top_words_of_the_users_own_document(node: Node) -> None:
    text = b"The lane, the lane and the run"
    upload(node.services, "alice", SUBMITTED["top_words"]["name"], text)
    upload(node.services, "bob", "his.txt", b"secret")
    run = node.begin("top_words", SUBMITTED["top_words"])
    assert output(node, run) == {"top": [["the", 3], ["lane", 2], ["and", 1]], "asked": 1}
    assert [kind for kind in node.kinds(run) if kind.startswith("tool")] == ["tool_executing", "tool_completed"]
    assert node.wait_for_kind(run, "agent_progress")["data"] == {"fraction": 0.5, "note": "7 words"}
    assert output(node, node.begin("top_words", SUBMITTED["top_words"]))["asked"] == 2


def test_top_words_of_somebody_elses_document(node: Node) -> None:
    upload(node.services, "bob", "his.txt", b"secret")
    run = node.begin("top_words", {"name": "his.txt"})
    ended = node.wait(run)
    assert ended.error is not None
    assert ended.error["message"] == "read_document: there is no document called 'his.txt'"
    assert "tool_failed" in node.kinds(run)


@pytest.mark.parametrize(("limit", "primes", "largest"), [(2**16, 6542, 65521), (100, 25, 97), (3, 1, 2)])
def test_primes(node: Node, limit: int, primes: int, largest: int) -> None:
    assert output(node, node.begin("primes", {"limit": limit})) == {"primes": primes, "largest": largest}


def test_primes_on_the_page(node: Node) -> None:
    run = node.begin("primes", SUBMITTED["primes"])
    assert output(node, run)["primes"] == 5133
    fractions = [event["data"]["fraction"] for event in node.log(run) if event["type"] == "agent_progress"]
    assert fractions == sorted(fractions)
    assert len(fractions) == 50


def test_primes_stops_when_it_is_cancelled(node: Node) -> None:
    run = node.begin("primes", {"limit": 10_000_000})
    node.wait_for_kind(run, "agent_progress")
    node.live(run).cancel()
    assert node.wait(run).status == "cancelled"
    assert node.wait_for_kind(run, "agent_thinking")["data"]["text"].startswith("stopping at ")


def test_journal_remembers_its_thread(node: Node) -> None:
    first = node.begin("journal", SUBMITTED["journal"])
    assert output(node, first) == {"entries": 1}
    second = node.begin("journal", {"text": "went on"}, thread_id=first.thread_id)
    assert output(node, second) == {"entries": 2}
    with node.services.database.user_session("alice") as session:
        kept = session.scalar(sa.select(Artifact.content).where(Artifact.run_id == second.id))
    lines = kept.decode().splitlines() if kept else []
    assert [line.split(" ", 2)[2] for line in lines] == [SUBMITTED["journal"]["text"], "went on"]
    assert output(node, node.begin("journal", {"text": "elsewhere"})) == {"entries": 1}


def test_compare_has_another_agent_work(node: Node) -> None:
    run = node.begin("compare", SUBMITTED["compare"])
    assert output(node, run) == {"words": {"first": 3, "second": 2}, "longer": "first"}
    assert [event["agent"] for event in node.log(run) if event["type"] == "agent_completed"] == [
        "count", "count", "compare",
    ]  # fmt: skip


def test_the_installed_package(node: Node, packages: Path) -> None:
    assert list(packages.glob("lanewise_hello-*.dist-info/entry_points.txt"))
    assert output(node, node.begin("hello", SUBMITTED["hello"])) == {"greeting": "Hello, Ada!"}
    assert output(node, node.begin("hello")) == {"greeting": "Hello, world!"}
