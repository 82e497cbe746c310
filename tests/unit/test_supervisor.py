from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from lanewise import supervisor as module
from lanewise.process import Account, Process, ProcessSpec, StartError, run_to_end, wait_until
from lanewise.supervisor import StopRequested, Supervisor

Shell = Callable[..., ProcessSpec]
Handler = Callable[..., Any] | int | None
FOREVER = "exec sleep 1000"
LOOP = "while :; do sleep 0.02; done"  # in which a shell heeds its traps


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    """A spec that runs a shell script in the test's folder."""

    def make(name: str, script: str, **more: object) -> ProcessSpec:
        argv = ("/bin/sh", "-c", script)
        env = {"PATH": os.defpath}
        return ProcessSpec(name=name, argv=argv, env=env, log=tmp_path / f"{name}.log", cwd=tmp_path, **more)  # type: ignore[arg-type]

    return make


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def lines(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


@contextmanager
def handled(number: signal.Signals, handler: Handler) -> Iterator[Handler]:
    """Gives a signal a handler of this process, for a while."""
    before = signal.signal(number, handler)
    try:
        yield handler
    finally:
        signal.signal(number, before)


def test_starts_an_ended_process_again_with_growing_pauses(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(module, "LAST_BACKOFF_S", 0.1)
    said: list[str] = []
    with Supervisor(said.append) as supervisor:
        supervisor._started = True
        supervisor.start(shell("crashing", "echo $$ >> runs; echo because; exit 3"), stage=0)
        supervisor.wait(lambda: len(lines(tmp_path / "runs")) == 4, 10, lambda: "not started again")
    pauses = [line.split("again in ")[1].split(" s")[0] for line in said]
    assert pauses[:3] == ["0.05", "0.1", "0.1"]
    assert said[0] == "crashing ended with code 3, starting it again in 0.05 s:\n  because"
    assert len(set(lines(tmp_path / "runs"))) == 4


def test_a_process_that_ran_for_long_starts_again_with_the_first_pause(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.01)
    monkeypatch.setattr(module, "STEADY_S", 0.0)
    said: list[str] = []
    with Supervisor(said.append) as supervisor:
        supervisor.start(shell("steady", "exit 0"), stage=0)
        supervisor.wait(lambda: len(said) > module.MOST_FAILURES_AT_START, 10, lambda: "gave up")
    assert all("in 0.01 s" in line for line in said)


def test_gives_up_on_a_process_that_keeps_ending_at_start(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.01)
    with Supervisor(lambda _: None) as supervisor:
        supervisor.start(shell("hopeless", "echo the reason; kill -ABRT $$"), stage=0)
        with pytest.raises(StartError, match=r"(?s)hopeless was ended by SIGABRT, 3 times in a row.*the reason"):
            supervisor.wait(lambda: False, 10, lambda: "")


def test_waiting_has_a_bound_and_says_for_what(shell: Shell) -> None:
    with Supervisor(lambda _: None) as supervisor:
        supervisor.start(shell("idle", FOREVER), stage=0)
        with pytest.raises(StartError, match=r"not ready after 0\.1 s: nothing came"):
            supervisor.wait(lambda: False, 0.1, lambda: "nothing came")


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match=r"ghost cannot be started: .*no/such/program"):
        Process(ProcessSpec(name="ghost", argv=("/no/such/program",), env={}, log=tmp_path / "ghost.log"))


def test_stops_stage_by_stage(shell: Shell, tmp_path: Path) -> None:
    script = f"trap 'sleep 0.1; echo NAME >> order; exit 0' TERM; echo NAME >> up; {LOOP}"
    with Supervisor(lambda _: None) as supervisor:
        for name, stage in (("store", 2), ("tool", 1), ("api", 0), ("worker", 0)):
            supervisor.start(shell(name, script.replace("NAME", name)), stage=stage)
        supervisor.wait(lambda: len(lines(tmp_path / "up")) == 4, 10, lambda: "not up")
    order = lines(tmp_path / "order")
    assert sorted(order[:2]) == ["api", "worker"]
    assert order[2:] == ["tool", "store"]


def test_kills_what_does_not_stop_in_time_with_its_group(shell: Shell, tmp_path: Path) -> None:
    said: list[str] = []
    script = f"trap '' TERM; sleep 1000 & echo $$ $! >> pids; {LOOP}"
    with Supervisor(said.append) as supervisor:
        supervisor.start(shell("deaf", script, stop_timeout_s=0.2), stage=0)
        supervisor.wait(lambda: len(lines(tmp_path / "pids")) == 2, 10, lambda: "not up")
        pids = [int(pid) for pid in lines(tmp_path / "pids")]
        assert all(alive(pid) for pid in pids)
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert wait_until(lambda: not any(alive(pid) for pid in pids), 5)
    assert said == ["deaf did not stop in time and was killed"]


def test_a_second_signal_hastens(shell: Shell, tmp_path: Path) -> None:
    # The child answers the first request by a signal to its parent, and ends at the second request only.
    script = f"trap 'kill -TERM $PPID' TERM; trap 'echo again > second; exit 0' INT; echo up > up; {LOOP}"
    with Supervisor(lambda _: None) as supervisor:
        supervisor.start(shell("slow", script, stop_timeout_s=60, hasten_signal=signal.SIGINT), stage=0)
        supervisor.wait((tmp_path / "up").exists, 10, lambda: "not up")
        supervisor._started = True
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequested):
            supervisor.wait(lambda: False, 10, lambda: "")
        started = time.monotonic()
    assert time.monotonic() - started < 5
    assert lines(tmp_path / "second") == ["again"]


def test_what_is_stopped_before_it_served_anybody_gets_no_time_to_drain(
    shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "HASTE_S", 0.2)
    with Supervisor(lambda _: None) as supervisor:
        supervisor.start(shell("deaf", f"trap '' TERM; echo up > up; {LOOP}", stop_timeout_s=60), stage=0)
        supervisor.wait((tmp_path / "up").exists, 10, lambda: "not up")
        started = time.monotonic()
    assert time.monotonic() - started < 10


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_runs_until_a_signal(shell: Shell, number: signal.Signals) -> None:
    # Under nohup these tests, too, have SIGHUP ignored, and then it stays so.
    with handled(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL) as before:
        with Supervisor(lambda _: None) as supervisor:
            supervisor.start(shell("messenger", f"kill -{number:d} $PPID; {FOREVER}"), stage=0)
            supervisor.run()
        assert signal.getsignal(number) == before


def test_a_hangup_that_is_ignored_stays_so() -> None:
    with handled(signal.SIGHUP, signal.SIG_IGN), Supervisor(lambda _: None):
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_children_are_out_of_the_terminals_reach(shell: Shell) -> None:
    with Supervisor(lambda _: None) as supervisor:
        supervisor.start(shell("child", FOREVER), stage=0)
        pid = supervisor._children[0].process.pid
        assert os.getsid(pid) == pid != os.getsid(0)


def test_hands_over_stdin_and_descriptors(shell: Shell, tmp_path: Path) -> None:
    with (tmp_path / "given").open("w") as given:
        script = f"read line; echo $line > /dev/fd/{given.fileno()}"
        run_to_end(shell("reader", script, stdin=b"hush\n", pass_fds=(given.fileno(),)), 10)
    assert lines(tmp_path / "given") == ["hush"]


def test_running_to_the_end_is_bounded_and_tells_why_it_failed(shell: Shell) -> None:
    with pytest.raises(StartError, match=r"(?s)sour ended with code 4.*grapes"):
        run_to_end(shell("sour", "echo grapes; exit 4"), 10)
    with pytest.raises(StartError, match="endless had not ended after"):
        run_to_end(shell("endless", FOREVER), 0.1)


PARENT = """
import os, sys
from pathlib import Path
from lanewise.process import Account, ProcessSpec
from lanewise.supervisor import Supervisor
folder, account = Path(sys.argv[1]), Account(*map(int, sys.argv[2:])) if sys.argv[2:] else None
with Supervisor(print) as supervisor:
    script = "trap '' TERM INT HUP; while :; do sleep 0.02; done"
    spec = ProcessSpec("child", ("/bin/sh", "-c", script), {"PATH": os.defpath}, folder / "log", account=account)
    supervisor.start(spec, stage=0)
    print(supervisor._children[0].process.pid, flush=True)
    supervisor.run()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends children with their parent")
@pytest.mark.parametrize("account", [None, "nobody"])
def test_a_killed_parent_leaves_nothing(tmp_path: Path, account: str | None) -> None:
    ids: list[str] = []
    if account is not None:
        if os.geteuid() != 0:
            pytest.skip("only root can change the account of a child")
        entry = pwd.getpwnam(account)
        ids = [str(number) for number in (Account(entry.pw_uid, entry.pw_gid).uid, entry.pw_gid)]
    argv = [sys.executable, "-c", PARENT, str(tmp_path), *ids]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            child = int(parent.stdout.readline())
            assert alive(child)
        finally:
            parent.kill()
    assert wait_until(lambda: not alive(child), 5)
