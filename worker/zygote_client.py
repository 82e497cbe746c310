"""The worker's side of the zygote: starts it, restarts it, asks it for sandboxes, hears how they ended."""

from __future__ import annotations

import contextlib
import itertools
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import structlog

from shared.errors import ConfigurationError, UnavailableError
from worker.walls import Confinement
from worker.zygote_process import ZygoteProcess

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
RESTART_WAIT_S = 0.5
FORK_TIMEOUT_S = 10.0
KILL_TIMEOUT_S = 2.0
KILL_AGAIN_S = 0.5
END_TIMEOUT_S = 5.0  # for a keeper to end all that is below it
TICK_S = 0.25
# Besides these only what LANEWISE_SANDBOX_ENV names reaches zygote and sandboxes.
PASSED_ENVIRONMENT = (
    "PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH",
    "LANEWISE_AGENTS", "LANEWISE_MCP_FILE", "LANEWISE_FETCH_NETWORKS", "LANEWISE_FETCH_PORTS",
    "LANEWISE_MODEL", "LANEWISE_MODEL_URL", "LANEWISE_MODEL_TIMEOUT_S", "LANEWISE_MODEL_SILENCE_S",
)  # fmt: skip


@dataclass
class SandboxProcess:
    """One sandbox, as its runner sees it.

    Args:
        sock: the runner's end of the socket.
        notify: called, from another thread, when it has exited.
        due: by when the zygote has to say which, `forked` or `signalled`. Of the client alone, under its lock.
        again_at: when a signal is sent again if it is asked for. Of the client alone, under its lock.
    """

    number: int
    sock: socket.socket
    notify: Callable[[], None]
    pid: int | None = None
    exited: threading.Event = field(default_factory=threading.Event)
    reason: str = ""  # how it ended, for people
    zygote_died: bool = False
    refused: bool = False  # there never was one
    cpu_s: float = 0.0
    max_rss_kb: int = 0
    due: dict[str, float] = field(default_factory=dict)
    again_at: dict[int, float] = field(default_factory=dict)


class ZygoteClient:
    """Keeps one zygote running. Its thread, which starts it, lives as long as the worker.

    The lock guards which zygote and which sandboxes there are. Nobody waits for anything while holding it.

    Args:
        confinement: of each sandbox.
        passed: names of further environment variables for the sandboxes.
    """

    def __init__(self, confinement: Confinement, passed: Sequence[str] = ()) -> None:
        self._confinement = confinement
        self._passed = (*PASSED_ENVIRONMENT, *passed)
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self._zygote: ZygoteProcess | None = None
        self._sandboxes: dict[int, SandboxProcess] = {}
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._failure: str | None = None
        self._imported = False
        self._thread = threading.Thread(target=self._keep, name="lanewise-zygote", daemon=True)
        self.agents: list[dict[str, Any]] = []
        self.named: dict[str, dict[str, str]] = {}  # what each name in LANEWISE_AGENTS stands for: agents, classes
        self.restarts = 0

    def start(self) -> None:
        """Starts the zygote and waits until it has imported the agents.

        Raises:
            ConfigurationError: an agent is unsound, or the import took more than 60 seconds.
        """
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S) or self._failure is not None:
            failure = self._failure or f"importing the agents took more than {START_TIMEOUT_S:g} s"
            self.stop()
            raise ConfigurationError(failure)

    def stop(self) -> None:
        """Ends the zygote and with it every sandbox."""
        self._stopping.set()
        self._ready.set()
        with self._lock:
            if self._zygote is not None:
                self._zygote.end()
        self._thread.join(STOP_TIMEOUT_S)

    @property
    def pid(self) -> int | None:
        """The zygote's pid."""
        zygote = self._zygote
        return zygote.pid if zygote else None

    def fork(self, notify: Callable[[], None]) -> SandboxProcess:
        """Returns a new sandbox, which waits for its start frame.

        A zygote that has not forked it after ten seconds stands still: it is ended, and started again.

        Raises:
            UnavailableError: there is no zygote now, or more waits for it than it can be sent.
        """
        if not self._ready.wait(START_TIMEOUT_S) or self._stopping.is_set():
            raise UnavailableError("there is no zygote to fork a sandbox from")
        ours, theirs = socket.socketpair()
        sandbox = SandboxProcess(next(self._numbers), ours, notify)
        sandbox.due["forked"] = time.monotonic() + FORK_TIMEOUT_S
        try:
            with self._lock, theirs:
                if self._zygote is None:
                    raise ConnectionError("the zygote is being restarted")
                self._zygote.send({"op": "fork", "id": sandbox.number}, [theirs.fileno()])
                self._sandboxes[sandbox.number] = sandbox
        except OSError as error:
            ours.close()
            raise UnavailableError(f"no sandbox: {error}") from error
        return sandbox

    def kill(self, sandbox: SandboxProcess, signum: int = signal.SIGKILL) -> None:
        """Signals the sandbox's whole process group, by way of the zygote, which knows whether it still lives.

        It may be called as often as one likes: the zygote is told twice a second. One that has not sent the signal
        after two seconds stands still: it is ended, and started again. What it has killed may take longer to be gone,
        on a full machine.
        """
        now = time.monotonic()
        with self._lock:
            if self._zygote is None or sandbox.number not in self._sandboxes or now < sandbox.again_at.get(signum, 0):
                return
            sandbox.due.setdefault("signalled", now + KILL_TIMEOUT_S)
            with contextlib.suppress(OSError):  # there is no room: the next call tries again
                self._zygote.send({"op": "kill", "id": sandbox.number, "signal": signum})
                sandbox.again_at[signum] = now + KILL_AGAIN_S

    def _keep(self) -> None:
        while not self._stopping.is_set():
            try:
                self._keep_one()
            except Exception:  # the next one is tried: without this thread there would never be a sandbox again
                log.exception("the zygote cannot be started")
            if self._failure is not None and self.restarts == 0:
                return  # at start-up: `start` reports it
            if not self._stopping.wait(RESTART_WAIT_S):
                self.restarts += 1
                log.warning("the zygote ended and is started again", failure=self._failure)

    def _keep_one(self) -> None:
        zygote = ZygoteProcess(self._confinement, self._passed)
        with self._lock:
            self._zygote = zygote
        try:
            self._listen(zygote)
        except (OSError, ValueError):
            log.exception("the zygote's messages cannot be read")
            zygote.end()
        finally:
            self._bury(zygote)

    def _listen(self, zygote: ZygoteProcess) -> None:
        """Hears the zygote until it is gone, and ends it when it has to end."""
        gone_by: float | None = None
        for message in zygote.messages(TICK_S):
            if message is not None:
                self._hear(zygote, message)
            now = time.monotonic()
            if gone_by is None and (self._stopping.is_set() or self._stands_still(now)):
                gone_by = now + END_TIMEOUT_S
                zygote.end()
            elif gone_by is not None and now > gone_by:
                log.error("what is below the zygote does not end: its keeper goes on killing it")
                return

    def _hear(self, zygote: ZygoteProcess, message: dict[str, Any]) -> None:
        match message.pop("op"):
            case "agent":
                zygote.agents.append(message)
            case "ready":
                zygote.pid = message["pid"]
                self.agents, self.named = zygote.agents, message["named"]
                self._failure, self._imported = None, True
                for note in message["notes"]:
                    log.warning(note)
                self._ready.set()
            case "failed":
                self._failure = message["message"]
                self._ready.set()
            case "exited":
                self._exited(message)
            case "refused":
                self._refused(message)
            case "forked" | "signalled" as kind:
                self._answered(kind, message)

    def _stands_still(self, now: float) -> bool:
        with self._lock:
            late = any(due < now for sandbox in self._sandboxes.values() for due in sandbox.due.values())
        if late:
            log.error("the zygote stands still: it is ended", pid=self.pid)
        return late

    def _answered(self, kind: str, message: dict[str, Any]) -> None:
        with self._lock:
            if (sandbox := self._sandboxes.get(message["id"])) is not None:
                sandbox.due.pop(kind, None)
                sandbox.pid = message.get("pid", sandbox.pid)

    def _exited(self, message: dict[str, Any]) -> None:
        with self._lock:
            sandbox = self._sandboxes.pop(message["id"], None)
        if sandbox is None:
            return
        sandbox.reason = _ending(-message["signal"] or message["status"])
        sandbox.cpu_s, sandbox.max_rss_kb = message["cpu_s"], message["max_rss_kb"]
        sandbox.exited.set()
        sandbox.notify()

    def _refused(self, message: dict[str, Any]) -> None:
        with self._lock:
            sandbox = self._sandboxes.pop(message["id"], None)
        if sandbox is not None:
            log.error("a sandbox cannot be forked", error=message["message"])
            sandbox.reason, sandbox.refused = f"could not be forked: {message['message']}", True
            sandbox.exited.set()
            sandbox.notify()

    def _bury(self, zygote: ZygoteProcess) -> None:
        """The zygote is gone, and what was below it: tells the runners of its sandboxes."""
        self._ready.clear()
        with self._lock:
            self._zygote = None
            orphans, self._sandboxes = list(self._sandboxes.values()), {}
        for sandbox in orphans:
            sandbox.reason, sandbox.zygote_died = "ended with its zygote", True
            sandbox.exited.set()
            sandbox.notify()
        code = zygote.bury()
        if not self._imported and self._failure is None and not self._stopping.is_set():
            ending = "does not end" if code is None else _ending(code)
            self._failure = f"the zygote ended while it imported the agents: it {ending}"
        if self._stopping.is_set() or self._failure is not None:
            self._ready.set()


def _ending(code: int) -> str:
    """Says how a process ended, from its exit code or, if negative, its signal."""
    if code >= 0:
        return f"exited with status {code}"
    names = {int(known): known.name for known in signal.Signals}
    return f"was killed by signal {-code} ({names.get(-code, 'real-time')})"
