"""`lanewise new-agent`: what it writes is sound as it is."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lanewise.authoring.package import NewPackage
from lanewise.authoring.trace import own_frames
from lanewise.cli import main
from shared.errors import ConfigurationError
from worker import core

ROOT = Path(__file__).parents[2]
FILES = {
    "README.md", "pyproject.toml", "word_count/__init__.py", "word_count/agent.py", "word_count/tools.py",
    "tests/test_agent.py",
}  # fmt: skip


def new_agent(name: str, folder: Path) -> Result:
    return CliRunner().invoke(main, ["new-agent", name, "--dir", str(folder)], prog_name="lanewise")


@pytest.fixture
def package(tmp_path: Path) -> Path:
    assert new_agent("word-count", tmp_path).exit_code == 0
    return tmp_path / "word-count"


def tool(package: Path, *argv: str, **further: str) -> str:
    """Runs a tool of Python in the package, as somebody would who has Lanewise installed; returns what it said."""
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=package, capture_output=True, text=True, timeout=100, check=False,
        # mypy cannot look into an editable install, which this one may be.
        env={**os.environ, "MYPYPATH": str(ROOT), **further},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_writes_a_package_with_agent_tool_and_test(package: Path) -> None:
    assert {str(path.relative_to(package)) for path in package.rglob("*") if path.is_file()} == FILES
    assert len((package / "README.md").read_text().splitlines()) == 3
    project = tomllib.loads((package / "pyproject.toml").read_text())
    assert project["project"]["name"] == "word-count"
    assert project["project"]["entry-points"]["lanewise.agents"] == {"word-count": "word_count.agent:WordCount"}
    assert "$" not in "".join(path.read_text() for path in package.rglob("*") if path.is_file())


def test_its_tests_pass(package: Path) -> None:
    assert "2 passed" in tool(package, "pytest", "-q", "-p", "no:cacheprovider")


def test_it_passes_lint_and_types(package: Path) -> None:
    tool(package, "ruff", "check", "--no-cache", ".")
    tool(
        package, "ruff", "check", "--no-cache", "--isolated", "--line-length=120", "--select=E,W,F,I,UP,B,SIM,RUF", "."
    )
    tool(package, "ruff", "format", "--no-cache", "--check", ".")
    tool(package, "mypy", ".", "--cache-dir", os.devnull)


def test_it_says_what_to_do_next(tmp_path: Path) -> None:
    said = new_agent("word-count", tmp_path).stdout
    typed = [line for line in said.splitlines() if line.startswith(("cd ", "lanewise ", "python "))]
    assert typed == [
        f"cd {tmp_path}/word-count",
        """lanewise run-agent word_count.agent:WordCount --input '{"text": "one two three"}'""",
        "python -m pytest",
        "python -m pip install --editable .",
        "lanewise up",
        """lanewise submit word-count --input '{"text": "one two three"}' --watch""",
    ]


def test_nothing_is_overwritten(package: Path) -> None:
    (package / "README.md").write_text("mine")
    result = new_agent("word-count", package.parent)
    assert result.exit_code == 2
    assert result.stderr == f"lanewise: {package} is there already: choose another name, or --dir\n"
    assert (package / "README.md").read_text() == "mine"


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    result = new_agent("word-count", tmp_path / "file" / "below")
    assert result.exit_code == 2
    assert "cannot be made" in result.stderr


@pytest.mark.parametrize(
    "name", ["", " ", "9lives", "-a", "a-", "a_", "a b", "a/b", "../a", "a.b", "ä", "a\n", "x" * 65]
)
def test_a_name_that_no_agent_can_have_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be an agent's name"):
        NewPackage.named(name)


@pytest.mark.parametrize("name", ["json", "class", "tests", "Pydantic", "lanewise", "worker"])
def test_a_package_that_would_hide_another_is_refused(name: str) -> None:
    with pytest.raises(ConfigurationError, match=f"try '{name}-agent'"):
        NewPackage.named(name)


@pytest.mark.parametrize("name", ["assistant", "data", "report", "research", "supervisor", "triage"])
def test_a_name_of_an_agent_that_comes_with_lanewise_is_refused(tmp_path: Path, name: str) -> None:
    result = new_agent(name, tmp_path)
    assert result.exit_code == 2
    assert result.stderr == (
        f"lanewise: an agent of Lanewise is called {name!r}, and no two agents can have one name; try 'my-{name}'\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "package", "cls"),
    [
        ("count", "count", "Count"),
        ("Word-count_2", "word_count_2", "WordCount2"),
        ("agent", "agent", "AgentAgent"),
        ("none", "none", "NoneAgent"),
        ("x" * 64, "x" * 64, "X" + "x" * 63),
    ],
)
def test_names_that_follow(name: str, package: str, cls: str) -> None:
    made = NewPackage.named(name)
    assert (made.name, made.package, made.cls) == (name, package, cls)


@pytest.mark.parametrize("name", ["agent", "none"])
def test_an_odd_name_makes_a_sound_package_too(tmp_path: Path, name: str) -> None:
    """With no plugin but Lanewise's, as an author may have it; the others that we have take two seconds to start."""
    assert new_agent(name, tmp_path).exit_code == 0
    options = ("-q", "-p", "no:cacheprovider", "-p", "lanewise.testing")
    assert "2 passed" in tool(tmp_path / name, "pytest", *options, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")


def test_only_what_is_below_the_call_of_the_agent_is_the_authors() -> None:
    ours = [f"  {core.__file__}:1 in execute", f"  {asyncio.__file__}:2 in to_thread"]
    theirs = ["  /srv/agents/count.py:3 in execute", f"  {json.__file__}:4 in decode"]
    assert own_frames("\n".join(["ValueError", *ours, *theirs])) == ["ValueError", *theirs]
    assert own_frames("\n".join(["ValidationError", *ours])) == []
    assert own_frames("") == []
