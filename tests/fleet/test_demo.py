from __future__ import annotations

import io
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from xml.etree import ElementTree as ET

import psutil
import pytest
from rich.console import Console

from lanewise.demo import __main__ as demo
from lanewise.demo import fleet as demo_fleet
from lanewise.demo.fleet import DemoError
from lanewise.demo.lanes import Job
from lanewise.process import wait_until
from tests.fleet.fleet import Fleet

DEMO = (sys.executable, "-m", "lanewise.demo")
PATIENCE_S = 100


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Marks every process that comes of the demo, and keeps its folder where we can see it."""
    (tmp_path / "tmp").mkdir()
    return {**os.environ, "TMPDIR": str(tmp_path / "tmp"), "TERM": "xterm-256color"}


def left(tmp_path: Path) -> list[str]:
    """What a demo has left behind: processes, files in its temporary folder."""
    mine = str(tmp_path / "tmp")
    found = [str(path) for path in (tmp_path / "tmp").iterdir()]
    for process in psutil.process_iter():
        try:
            if process.environ().get("TMPDIR") == mine and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def on_a_terminal(command: tuple[str, ...], cwd: Path, env: dict[str, str]) -> tuple[int, str]:
    """Runs a command on a terminal; returns its exit code and the text that it showed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(command, cwd=cwd, env=env, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    shown = bytearray()
    try:
        while chunk := os.read(master, 65_536):
            shown += chunk
    except OSError:  # Linux: the other side is closed
        pass
    finally:
        os.close(master)
        process.kill()
    return process.wait(), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode()).replace("\r\n", "\n")


def test_the_demo_shows_real_runs_and_what_it_tells_to_try_next_works(
    tmp_path: Path, environment: dict[str, str], fleet: Fleet
) -> None:
    code, text = on_a_terminal(DEMO, tmp_path, {**environment, "COLUMNS": "80", "LINES": "50"})
    assert code == 0, text
    for part in ("How they went", "What came out", "How fast", "What was checked", "What to try next"):
        assert f"\n{part}\n" in text
    assert "s to go" in text
    assert "next in line" in text
    assert re.search(r"grace: a question in plain words +\(triage ✓, data ✓, research ✓, report ✓\)", text)
    assert re.search(r"│ +US +\d+ +│", text)  # a table of the report, rendered
    assert re.search(r"│ +• \[1\] certifi\.md, “Certifi: Python SSL", text)
    assert "## " not in text
    assert re.search(r"contry.* not found", text)
    assert re.search(r"'countdown from 60' was over [\d.]+ m?s after cancel", text)
    assert text.partition("How they went")[2].count("✓ completed") == 11
    charts = list((tmp_path / "artifacts" / "demo").iterdir())
    assert len(charts) == 3
    assert all(ET.parse(chart).getroot().tag.endswith("svg") for chart in charts)  # noqa: S314 - our own
    assert all(chart.name in text for chart in charts)
    assert left(tmp_path) == []

    commands = text.partition("What to try next\n")[2].splitlines()
    commands = [line.strip() for line in commands if not line.strip().startswith("#")]
    assert re.fullmatch(r"make up|\S*lanewise up", commands.pop(0))  # the shared fleet stands in for it
    (tmp_path / ".lanewise").symlink_to(fleet.data_dir)
    script = "\n".join(["set -e", *commands])
    tried = subprocess.run(
        ["/bin/sh", "-c", script],
        cwd=tmp_path, env={**os.environ, "LANEWISE_URL": fleet.url}, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert tried.returncode == 0, tried.stdout + tried.stderr
    assert re.search(r"│ +6 │", tried.stdout)


def test_an_interrupt_stops_everything(tmp_path: Path, environment: dict[str, str]) -> None:
    output = tmp_path / "output"
    with output.open("w") as stdout:
        demo = subprocess.Popen(DEMO, cwd=tmp_path, env=environment, stdout=stdout, stderr=subprocess.STDOUT)
    try:
        assert wait_until(lambda: "running" in output.read_text(), 60), output.read_text()
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(60) == 130
    finally:
        demo.kill()
        demo.wait()
    assert "interrupted" in output.read_text()
    assert "Traceback" not in output.read_text()
    assert left(tmp_path) == []


def test_an_outcome_that_is_not_as_it_has_to_be_fails_the_demo(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    # The shared fleet has other agents than the demo's, so one that it does have stands for all.
    wrong = {user: [Job("a refusal", "refuse", {"text": "on purpose"})] for user in demo.USERS}
    monkeypatch.setattr(demo, "jobs", lambda: wrong)
    running = demo_fleet.Fleet(fleet.url, fleet.data_dir, 0.0)
    with pytest.raises(DemoError, match="'a refusal' is failed, not completed"):
        demo.show(Console(file=io.StringIO()), running)


def test_a_fleet_that_does_not_start_is_told_with_its_log(tmp_path: Path, environment: dict[str, str]) -> None:
    (tmp_path / "shared.py").write_text("")  # hides our own package: `lanewise up` refuses such a folder
    started = time.monotonic()
    done = subprocess.run(
        (sys.executable, "-P", "-m", "lanewise.demo"),
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "the demo failed: the fleet ended with code 2 before it was ready" in done.stderr
    assert "hides Lanewise's own 'shared'" in done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - started < 30
    assert left(tmp_path) == []
