"""The worker's side of the zygote: starts it, restarts it, asks it for sandboxes, hears how they ended."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import structlog

from shared.errors import ConfigurationError, UnavailableError
from worker.folders import remove
from worker.walls import Confinement
from worker.zygote import MAX_PACKET

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 60.0
RESTART_WAIT_S = 0.5
KILL_TIMEOUT_S = 2.0
REMOVE_TIMEOUT_S = 10.0
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
    """

    number: int
    sock: socket.socket
    notify: Callable[[], None]
    pid: int | None = None
    kill_by: float | None = None  # when a zygote that works has sent the signals that it was told to
    exited: threading.Event = field(default_factory=threading.Event)
    reason: str = ""  # how it ended, for people
    zygote_died: bool = False
    refused: bool = False  # there never was one
    cpu_s: float = 0.0
    max_rss_kb: int = 0


class ZygoteClient:
    """Keeps one zygote running. Its thread, which forks it, lives as long as the worker.

    Args:
        confinement: of each sandbox.
        passed: names of further environment variables for the sandboxes.
    """

    def __init__(self, confinement: Confinement, passed: Sequence[str] = ()) -> None:
        self._confinement = confinement
        self._passed = (*PASSED_ENVIRONMENT, *passed)
        self._numbers = itertools.count(1)
        self._sandboxes: dict[int, SandboxProcess] = {}
        self._lock = threading.Lock()
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
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
            if self._control is not None:
                with contextlib.suppress(OSError):
                    self._control.shutdown(socket.SHUT_RDWR)
        self._thread.join(10)

    @property
    def pid(self) -> int | None:
        """The zygote's pid."""
        return self._process.pid if self._process else None

    def fork(self, notify: Callable[[], None]) -> SandboxProcess:
        """Returns a new sandbox, which waits for its start frame.

        Raises:
            UnavailableError: there is no zygote now.
        """
        if not self._ready.wait(START_TIMEOUT_S) or self._stopping.is_set():
            raise UnavailableError("there is no zygote to fork a sandbox from")
        ours, theirs = socket.socketpair()
        sandbox = SandboxProcess(next(self._numbers), ours, notify)
        with self._lock, theirs:
            self._sandboxes[sandbox.number] = sandbox
            try:
                request = json.dumps({"op": "fork", "id": sandbox.number}).encode()
                socket.send_fds(self._connected(), [request], [theirs.fileno()])
            except OSError as error:
                del self._sandboxes[sandbox.number]
                ours.close()
                raise UnavailableError(f"no sandbox: {error}") from error
        return sandbox

    def kill(self, sandbox: SandboxProcess, signum: int = signal.SIGKILL) -> None:
        """Signals the sandbox's whole process group, by way of the zygote, which knows whether it still lives.

        A zygote that has not sent the signal after two seconds stands still: it is ended itself, and started again.
        What it has killed may take longer to be gone, on a full machine.
        """
        request = json.dumps({"op": "kill", "id": sandbox.number, "signal": signum}).encode()
        with self._lock:
            if self._control is None or self._process is None or sandbox.exited.is_set():
                return
            now = time.monotonic()
            if sandbox.kill_by is None:
                sandbox.kill_by = now + KILL_TIMEOUT_S
            elif now > sandbox.kill_by:
                log.error("the zygote stands still: it is ended", pid=self._process.pid)
                self._process.kill()
                return
            with contextlib.suppress(OSError):
                self._control.send(request, socket.MSG_DONTWAIT)

    def _connected(self) -> socket.socket:
        if self._control is None:
            raise ConnectionError("the zygote is being restarted")
        return self._control

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
        folder = tempfile.mkdtemp(prefix="lanewise-")
        try:
            control = self._exec(folder)
            try:
                self._listen(control)
            except (OSError, ValueError):
                log.exception("the zygote's messages cannot be read")
            finally:
                self._bury(control)
        finally:
            if not remove(folder, REMOVE_TIMEOUT_S):
                log.warning("the folder of dead sandboxes is not removed", folder=folder)

    def _exec(self, folder: str) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: os.environ[name] for name in self._passed if name in os.environ}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HOME": folder}
        # By default glibc reserves 64 MiB of the sandbox's address space for each thread, e.g. each tool call.
        environment |= {"MALLOC_ARENA_MAX": "2"}
        confinement = json.dumps(asdict(self._confinement))
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "worker.zygote", str(os.getpid()), folder, confinement],
                stdin=theirs.fileno(),
                env=environment,
                start_new_session=True,
            )
        with self._lock:
            self._control = ours
        return ours

    def _listen(self, control: socket.socket) -> None:
        agents: list[dict[str, Any]] = []
        while packet := control.recv(MAX_PACKET * 4):
            message = json.loads(packet)
            match message.pop("op"):
                case "agent":
                    agents.append(message)
                case "ready":
                    self.agents, self.named = agents, message["named"]
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
                case "forked" | "signalled" as kind if (sandbox := self._sandboxes.get(message["id"])) is not None:
                    if kind == "forked":
                        sandbox.pid = message["pid"]
                    else:
                        sandbox.kill_by = None

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

    def _bury(self, control: socket.socket) -> None:
        """The zygote is gone, and by the kernel so are its sandboxes: ends their groups too and tells their runners."""
        self._ready.clear()
        with self._lock:
            self._control = None
            orphans, self._sandboxes = list(self._sandboxes.values()), {}
        control.close()
        for sandbox in orphans:
            if sandbox.pid is not None:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(sandbox.pid, signal.SIGKILL)
            sandbox.reason, sandbox.zygote_died = "ended with its zygote", True
            sandbox.exited.set()
            sandbox.notify()
        if self._process is not None:
            try:
                self._process.wait(5)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(5)
        if not self._imported and self._failure is None and not self._stopping.is_set():
            ending = _ending(self._process.returncode) if self._process else "was not there"
            self._failure = f"the zygote ended while it imported the agents: it {ending}"
        if self._stopping.is_set() or self._failure is not None:
            self._ready.set()


def _ending(code: int) -> str:
    """Says how a process ended, from its exit code or, if negative, its signal."""
    if code >= 0:
        return f"exited with status {code}"
    names = {int(known): known.name for known in signal.Signals}
    return f"was killed by signal {-code} ({names.get(-code, 'real-time')})"
