"""What the README tells people to type does work: each block after `<!-- run -->`, in its order, on a running fleet."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fleet.fleet import ROOT, Fleet, new_user
from tests.services import missing

BLOCK = re.compile(r"^<!-- run -->\s*^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
README = (ROOT / "README.md").read_text()
BLOCKS = BLOCK.findall(README)
BOUND_S = 60


def test_no_block_is_passed_over() -> None:
    assert len(BLOCKS) == README.count("<!-- run -->") > 0
    assert {language for language, _ in BLOCKS} == {"console", "python", "js"}


@pytest.fixture(scope="module")
def shell(fleet: Fleet) -> dict[str, str]:
    """The environment of somebody who has activated the venv and has a token."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    token = fleet.token(new_user("reader"))
    return {**os.environ, "PATH": path, "LANEWISE_URL": fleet.url, "LANEWISE_TOKEN": token}


def lines(language: str, block: str) -> list[tuple[str, ...]]:
    """Returns what to execute: each `$ ` line of a console, or a whole script."""
    if language == "python":
        return [(sys.executable, "-W", "error", "-c", block)]
    if language == "js":
        node = shutil.which("node")
        if node is None:
            missing("no node on the PATH (Debian: apt-get install nodejs)")
        return [(node, "--input-type=module", "--eval", block)]
    typed = [line.removeprefix("$ ") for line in block.splitlines() if line.startswith("$ ")]
    assert typed, f"no line begins with `$ `: {block}"
    return [("bash", "-euo", "pipefail", "-c", line) for line in typed]


@pytest.mark.parametrize(("language", "block"), BLOCKS)
def test_a_block_runs(shell: dict[str, str], tmp_path: Path, language: str, block: str) -> None:
    (tmp_path / "README.md").write_text(README)  # who reads it is in the project's folder
    for argv in lines(language, block):
        done = subprocess.run(
            argv, cwd=tmp_path, env=shell, capture_output=True, text=True, timeout=BOUND_S, check=False
        )
        assert done.returncode == 0, f"{argv[-1]}\n{done.stdout}{done.stderr}"
        assert done.stdout.strip(), f"{argv[-1]}\nprinted nothing"
        assert language != "js" or done.stdout.splitlines()[-1] == "run_completed"
