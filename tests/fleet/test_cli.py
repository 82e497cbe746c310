from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from lanewise.process import wait_until
from shared.models import AuditEntry
from tests.fleet.fleet import Fleet

LANEWISE = (sys.executable, "-m", "lanewise.cli")
QUERY = json.dumps({"inline": "city,people\nOslo,717710\nBergen,291940", "sql": "SELECT * FROM data ORDER BY people"})

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def environment(fleet: Fleet, user: str) -> dict[str, str]:
    return {**os.environ, "LANEWISE_URL": fleet.url, "LANEWISE_TOKEN": fleet.token(user), "TERM": "xterm-256color"}


@pytest.fixture
def lanewise(environment: dict[str, str]) -> Run:
    def run(*arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
        command, env = [*LANEWISE, *arguments], environment | more
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.fixture
def terminal(environment: dict[str, str]) -> Iterator[Callable[..., tuple[int, str]]]:
    """Runs a command on a terminal of 80 columns; returns the exit code and what it showed."""
    master, slave = pty.openpty()

    def run(*arguments: str) -> tuple[int, str]:
        sized = {**environment, "COLUMNS": "80", "LINES": "30"}
        process = subprocess.Popen([*LANEWISE, *arguments], env=sized, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)
        shown = bytearray()
        try:
            while chunk := os.read(master, 65_536):
                shown += chunk
        except OSError:  # Linux: the other side is closed
            pass
        return process.wait(30), shown.decode()

    yield run
    os.close(master)


def test_the_way_of_a_run(lanewise: Run, fleet: Fleet, user: str) -> None:
    token = lanewise("token", user, "--data-dir", str(fleet.data_dir)).stdout.strip()
    assert "talk" in lanewise("agents", LANEWISE_TOKEN=token).stdout
    done = lanewise("submit", "data", "--input", QUERY, "--watch")
    assert (done.returncode, "717,710" in done.stdout, "run_completed" in done.stderr) == (0, True, True)
    failed = lanewise("submit", "data", "--input", '{"inline": "a\\n1", "sql": "SELECT b FROM data"}', "--watch")
    assert failed.returncode == 1
    assert '"b" not found' in failed.stdout
    assert "Traceback" not in failed.stdout + failed.stderr
    run_id = lanewise("submit", "hold").stdout.strip()
    assert lanewise("cancel", run_id).returncode == 0
    assert lanewise("watch", run_id).returncode == 1
    listed = [json.loads(line)["status"] for line in lanewise("runs", "--json").stdout.splitlines()]
    assert listed == ["cancelled", "failed", "completed"]
    assert "cancelled" in lanewise("show", run_id).stdout


def test_json_lines_of_a_watched_run(lanewise: Run) -> None:
    done = lanewise("submit", "talk", "--input", '{"text": "a b"}', "--watch", "--json")
    *events, run = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["run_seq"] for event in events] == list(range(1, len(events) + 1))
    assert (run["status"], run["output"], done.stderr) == ("completed", {"words": ["a", "b"]}, "")


def test_what_was_done_is_sealed_within_five_seconds_and_verifies(lanewise: Run, fleet: Fleet, user: str) -> None:
    fleet.wait(user, fleet.submit(user, "talk", {"text": "a"})["id"])

    def told() -> list[tuple[str, int | None]]:
        with fleet.services.database.user_session(user) as session:
            rows = session.execute(sa.select(AuditEntry.action, AuditEntry.seal).order_by(AuditEntry.id))
            return [(row.action, row.seal) for row in rows]

    assert wait_until(lambda: all(seal for _, seal in told()), 5)
    assert [action for action, _ in told()] == ["run.submit", "run.end"]
    done = lanewise("audit", "verify", "--data-dir", str(fleet.data_dir), "--json")
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert json.loads(done.stdout)["flaws"] == 0


def test_a_refusal_is_one_line(lanewise: Run) -> None:
    refused = lanewise("submit", "tlak")
    assert (refused.returncode, refused.stdout) == (3, "")
    assert refused.stderr.startswith("lanewise: ")
    assert refused.stderr.count("\n") == 1


def test_on_a_terminal_there_is_a_bar_and_then_the_result(terminal: Callable[..., tuple[int, str]]) -> None:
    code, shown = terminal("submit", "data", "--input", QUERY, "--watch")
    assert code == 0
    assert "reading the inline table" in shown
    assert "━" in shown
    assert shown.index("completed") < shown.index("717,710")
    assert "\x1b[" in shown


def test_watching_all_ends_with_an_interrupt_and_code_0(
    lanewise: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "output"
    with output.open("w") as stdout:
        watching = subprocess.Popen(
            [*LANEWISE, "watch"],
            env=environment,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            # As in a terminal: whoever runs the tests in the background of a shell has it ignore interrupts.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509 - one thread here
        )
    try:
        deadline = time.monotonic() + 30
        while "run_completed" not in output.read_text() and time.monotonic() < deadline:
            lanewise("submit", "talk", "--input", '{"text": "a"}', "--watch")
        assert wait_until(lambda: "agent_started" in output.read_text(), 10)
        watching.send_signal(signal.SIGINT)
        assert watching.wait(10) == 0
    finally:
        watching.kill()
        watching.wait()
    assert "Traceback" not in output.read_text()
