"""What the examples' page tells people to type does work, on a fleet that has the examples."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.fleet import ROOT, Fleet, new_user

PAGE = (ROOT / "examples" / "README.md").read_text()
TYPED = re.findall(r"^\$ (.+)$", PAGE, re.MULTILINE)
(AGENTS,) = re.findall(r"^LANEWISE_AGENTS=(\S+) make up$", PAGE, re.MULTILINE)
(PACKAGE,) = re.findall(r"^pip install \./(\S+)$", PAGE, re.MULTILINE)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A fleet with the three files and the package, which pip has installed beside."""
    folder = tmp_path_factory.mktemp("package")
    source = shutil.copytree(ROOT / PACKAGE, folder / "source")  # building leaves files beside the sources
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet")
    target = folder / "target"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", str(target), str(source)], check=True, timeout=60
    )
    with Fleet.start("--no-flower", env={"LANEWISE_AGENTS": AGENTS, "PYTHONPATH": str(target)}) as running:
        yield running


@pytest.fixture(scope="module")
def shell(examples: Fleet) -> dict[str, str]:
    """The environment of somebody who has activated the venv and has a token."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return {**os.environ, "PATH": path, "LANEWISE_URL": examples.url, "LANEWISE_TOKEN": examples.token(new_user())}


@pytest.mark.parametrize("line", TYPED)
def test_a_line_does_what_it_should(shell: dict[str, str], line: str) -> None:
    argv = ("bash", "-euc", line)
    done = subprocess.run(argv, cwd=ROOT, env=shell, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.strip()
    assert '"problem"' not in done.stdout
