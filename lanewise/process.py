"""One child process: what it is, how it starts, how it ends.

Children start without a shell, each in a session of its own: a Ctrl-C in the terminal reaches only their parent, which
then ends them in order. On Linux the kernel ends a child when its parent is gone, so that `kill -9` of the parent
leaves nothing behind. The kernel means the parent *thread*: start children from a thread that lives as long as they.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from shared.errors import LanewiseError

PR_SET_PDEATHSIG = 1
KILL_TIMEOUT_S = 10.0  # the kernel may first have to finish a write for it
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class StartError(LanewiseError):
    """A process ended, or stayed silent, before it was of any use; the message holds its last lines."""

    code = "start_failed"


@dataclass(frozen=True)
class Account:
    """The user that a child runs as when its parent is root."""

    uid: int
    gid: int


@dataclass(frozen=True)
class ProcessSpec:
    """All that starts and stops one process.

    Args:
        name: short, for people: `postgres`, `api.1`.
        argv: the program and its arguments, no shell; never holds a secret, for every user can read it.
        env: the whole environment of the child.
        log: stdout and stderr are appended here.
        cwd: entered before the change of account, so the folders above it may be closed to that account.
        account: default: the parent's.
        stdin: at most 64 KiB (what a pipe holds), then end of file.
        pass_fds: file descriptors that stay open in the child, under the same numbers.
        stop_signal: asks it to end.
        hasten_signal: asks again, when whoever waits has lost patience; default: `stop_signal`.
        death_signal: sent by the kernel when the parent is gone.
        stop_timeout_s: after this it is killed.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(repr=False)
    log: Path
    cwd: Path | None = None
    account: Account | None = None
    stdin: bytes = field(default=b"", repr=False)
    pass_fds: tuple[int, ...] = ()
    stop_signal: signal.Signals = signal.SIGTERM
    hasten_signal: signal.Signals | None = None
    death_signal: signal.Signals = signal.SIGKILL
    stop_timeout_s: float = 10.0


class Process:
    """A started `ProcessSpec`.

    Raises:
        StartError: the program cannot be executed.
    """

    def __init__(self, spec: ProcessSpec) -> None:
        self.spec = spec
        self.started_at = time.monotonic()
        spec.log.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with spec.log.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._popen = _spawn(spec, log.fileno())
            except (OSError, subprocess.SubprocessError) as error:
                raise StartError(f"{spec.name} cannot be started: {error}") from error
        if self._popen.stdin is not None:
            with contextlib.suppress(BrokenPipeError), self._popen.stdin as pipe:
                pipe.write(spec.stdin)

    @property
    def pid(self) -> int:
        """The process id; also that of its group and session."""
        return self._popen.pid

    @property
    def exit_code(self) -> int | None:
        """None while it runs; negative: the signal that ended it."""
        return self._popen.poll()

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        code = self.exit_code
        if code is None:
            return "is running"
        return f"ended with code {code}" if code >= 0 else f"was ended by {signal.Signals(-code).name}"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process (not to its group); nothing happens if it has ended."""
        self._popen.send_signal(number)

    def wait(self, timeout_s: float) -> bool:
        """Waits for the end; False if it still runs after `timeout_s`."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """Asks it to end, kills it after its time, and clears its group."""
        self.signal(self.spec.stop_signal)
        if not self.wait(self.spec.stop_timeout_s):
            self.kill()
        self.kill_group()

    def kill(self) -> None:
        """Ends the process at once (not its group, which gets a moment to notice)."""
        self.signal(signal.SIGKILL)
        self.wait(KILL_TIMEOUT_S)

    def kill_group(self, grace_s: float = 2.0) -> None:
        """Ends what an ended process left in its group, after a moment in which it may end by itself."""
        wait_until(lambda: not _group_exists(self.pid), grace_s)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def last_lines(self, count: int = 15) -> str:
        """Returns the last lines that it wrote to its log since it was started, indented."""
        with self.spec.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - 32_768))
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-count:])


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Asks `condition` again and again, less and less often; False if it never held within `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    pause_s = 0.005
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause_s)
        pause_s = min(pause_s * 1.5, 0.1)
    return True


def run_to_end(spec: ProcessSpec, timeout_s: float) -> None:
    """Runs a process that does its work and exits.

    Raises:
        StartError: it failed, or had not ended after `timeout_s`.
    """
    process = Process(spec)
    try:
        if not process.wait(timeout_s):
            raise StartError(f"{spec.name} had not ended after {timeout_s:g} s:\n{process.last_lines()}")
        if process.exit_code != 0:
            raise StartError(f"{spec.name} {process.ending}:\n{process.last_lines()}")
    finally:
        process.kill()
        process.kill_group(0)


def _spawn(spec: ProcessSpec, log_fd: int) -> subprocess.Popen[bytes]:
    parent = os.getpid()
    account = spec.account

    def tie_to_parent() -> None:
        # After the change of account, which would clear it; and the parent may have died before this line.
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, int(spec.death_signal))
        if os.getppid() != parent:
            os._exit(1)

    return subprocess.Popen(
        spec.argv,
        stdin=subprocess.PIPE if spec.stdin else subprocess.DEVNULL,
        stdout=log_fd,
        stderr=subprocess.STDOUT,
        env=dict(spec.env),
        cwd=spec.cwd,
        pass_fds=spec.pass_fds,
        start_new_session=True,
        user=account.uid if account else None,
        group=account.gid if account else None,
        extra_groups=() if account else None,
        preexec_fn=tie_to_parent,  # noqa: PLW1509 - takes no locks that another thread may hold
    )


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it exists, as somebody else
        return True
    return True
