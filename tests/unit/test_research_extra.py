"""Without the extra `research` a worker starts all the same, without that agent, and says how to get it."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import sys
sys.modules[{missing!r}] = None
from worker.discovery import load_agents
loaded = load_agents([])
print(loaded)
"""
LEAN = "import sys, worker.agents.research; print({'lxml', 'pypdf'} & set(sys.modules))"


def python(script: str) -> str:
    return subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, timeout=60).stdout


@pytest.mark.parametrize("missing", ["lxml", "pypdf"])
def test_a_missing_library_is_noted_at_the_start(missing: str) -> None:
    assert "agent 'research' is left out: install lanewise[research]" in python(SCRIPT.format(missing=missing))


def test_what_reads_files_is_imported_when_a_file_needs_it() -> None:
    assert python(LEAN).strip() == "set()"
