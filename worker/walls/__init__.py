"""The walls of a sandbox: what the kernel keeps from a process that runs somebody's agent.

They are prepared once, in the zygote; each sandbox raises them round itself before it runs a line of an agent's code.
None of them can be taken down again, by root neither. What a platform lacks is said (`missing`).
"""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Any

from shared import linux
from worker.walls import account, landlock, seccomp

NICE = 5  # a third of the processor time that the worker, the api and the stores get beside it, if all want some
MAX_FILES = 1024  # descriptors at once
MAX_FILE_BYTES = 1024**3
MAX_TASKS = 256  # processes and threads of a sandbox with an account of its own
SHARED_TASKS = 1024  # that an account which others share may have more than when it was looked at
_LOOK_EVERY_S = 5.0
_CPU_MARGIN_S, _MAX_CPU_S = 60, 2**31
_SYSTEM = (
    "/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/opt", "/nix/store", "/sys/devices/system", "/sys/fs/cgroup",
)  # fmt: skip
# Of /proc what is the machine's, and of no other process: command lines are for all to see, and some hold a password.
_PROC = [
    f"/proc/{name}" for name in ("cpuinfo", "filesystems", "loadavg", "meminfo", "stat", "sys", "uptime", "version")
]
# Of /etc what programs look up; not its passwords and private keys.
_ETC = [
    f"/etc/{name}"
    for name in (
        "alternatives", "ca-certificates", "crypto-policies", "debian_version", "fonts", "gai.conf", "group",
        "host.conf", "hostname", "hosts", "inputrc", "ld.so.cache", "ld.so.conf", "ld.so.conf.d", "locale.alias",
        "localtime", "machine-id", "mime.types", "nsswitch.conf", "os-release", "passwd", "pki", "protocols",
        "resolv.conf", "services", "ssl", "terminfo", "timezone",
    )
]  # fmt: skip
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")
_CLOSED = ("/etc/ssl/private", "/etc/pki/tls/private")

raised: set[str] = set()  # in this process: "limits", and "network" if it has none; errors that come of them say so


@dataclass(frozen=True)
class Confinement:
    """What each sandbox of a zygote is confined to. Goes from worker to zygote as JSON.

    Args:
        memory_mb: MiB that it may use beyond the zygote.
        readable: what it may read besides the system's and Python's files and the folders of the module path.
        writable: what it may write, besides its folder.
        closed: what it may not read, wherever it is.
    """

    memory_mb: int
    readable: Sequence[str] = ()
    writable: Sequence[str] = ()
    closed: Sequence[str] = ()


class Walls:
    """Those that are the same for all stand round the zygote; each sandbox raises its own within them.

    Args:
        given: what sandboxes are confined to.
        folder: where each gets a folder of its own.
    """

    def __init__(self, given: Confinement, folder: str) -> None:
        self._given = given
        self._folder = folder
        self._address_space = linux.address_space() + given.memory_mb * 1024 * 1024
        self._code = _code()
        self._landlock = landlock.version()
        self._accounts = _accounts(self._landlock, self._code, given.writable)
        self._first_uid = account.first_uid()
        self._tasks, self._looked_at = 0, float("-inf")
        self._no_network: dict[bool, seccomp.Filter] = {}  # with and without sockets of this machine
        self._own: landlock.Ruleset | None = None
        self._itself = -1

    def enclose(self) -> None:
        """Confines the zygote, which has imported all that it needs, and with it every sandbox."""
        Path(self._folder).chmod(0o711)  # other accounts find the way to their own folder, and see no other's
        linux.give_up_privileges()
        if seccomp.available():
            seccomp.Filter(seccomp.common()).enforce()
            for local in (False, True):
                self._no_network[local] = seccomp.Filter(seccomp.without_network(local=local))
        if self._landlock:
            given, readable = self._given, (*_SYSTEM, *self._code, *self._given.readable)
            closed = {os.path.realpath(path) for path in (*given.closed, *_CLOSED, *_hidden(self._code))}
            parts = [part for path in (*readable, *_ETC) for part in landlock.open_parts(path, closed)]
            shared = [(path, landlock.ALL) for path in (*given.writable, *_DEVICES)]
            # A sandbox writes to /proc before it confines itself; its own rules let it read there.
            mine = [(path, landlock.ALL) for path in (self._folder, "/proc")]
            landlock.Ruleset(self._landlock, [*parts, *shared, *mine]).enforce()
            # What is readable is settled above; here fewer and wider rules do, for each sandbox makes them anew.
            wide = dict.fromkeys(map(os.path.realpath, (*readable, *_PROC, "/etc", "/run")), landlock.READ)
            self._own = landlock.Ruleset(self._landlock, [*wide.items(), *shared])

    def count_tasks(self) -> None:
        """Called in the zygote before a fork, now and then: a limit for an account that others share needs a count."""
        if not self._accounts.own and time.monotonic() > self._looked_at + _LOOK_EVERY_S:
            self._tasks, self._looked_at = account.tasks(), time.monotonic()

    def enter(self) -> None:
        """Gives a freshly forked process its folder, its limits and its account. Our code alone runs in it so far."""
        folder = self._own_folder()
        os.mkdir(folder, mode=0o700)  # noqa: PTH102 - each module touched here is copied memory in every sandbox
        os.chdir(folder)
        os.environ["HOME"] = os.environ["TMPDIR"] = folder
        linux.hide_memory(hidden=False)  # else these two files of the kernel's belong to root
        linux.step_back(NICE)
        linux.die_first()
        linux.hide_memory()
        most = {
            resource.RLIMIT_CORE: 0,
            resource.RLIMIT_AS: self._address_space,
            resource.RLIMIT_NOFILE: MAX_FILES,
            resource.RLIMIT_FSIZE: MAX_FILE_BYTES,
            resource.RLIMIT_NPROC: MAX_TASKS if self._accounts.own else self._tasks + SHARED_TASKS,
        }
        for limit, wanted in most.items():
            _lower(limit, wanted)
        if self._accounts.own:
            account.take(folder, self._first_uid, self._accounts.kept)
            linux.hide_memory()  # a change of account may show it again
        elif os.geteuid() == 0:
            linux.keep_capabilities()

    def close(self, *, time_left_s: float, tcp_ports: Collection[int] | None, local: bool = False) -> None:
        """Closes the last walls, which say what the agent of this run may do. The process has one thread.

        Args:
            time_left_s: the run's, seconds: a process that outlives it by its processor time is ended by the kernel.
            tcp_ports: what it may connect to; None: the agent has declared that it needs the network.
            local: whether it may connect to sockets of this machine without that: the database's is one.
        """
        processors = os.cpu_count() or 1
        _lower(resource.RLIMIT_CPU, min(ceil(time_left_s) * processors + _CPU_MARGIN_S, _MAX_CPU_S))
        confines_tcp = bool(self._no_network) or self._landlock >= landlock.NET_VERSION
        raised.update({"limits", "network"} if tcp_ports is not None and confines_tcp else {"limits"})
        if self._no_network and tcp_ports is not None:
            self._no_network[local].enforce()
        if self._own is not None:
            self._own.permit(self._own_folder(), landlock.ALL)
            # Of itself it may see all. Held open: the rule ends with what the kernel remembers of the folder.
            self._itself = os.open(f"/proc/{os.getpid()}", os.O_PATH | os.O_CLOEXEC)
            self._own.permit(f"/proc/{os.getpid()}", landlock.READ)
            self._own.enforce(tcp_ports, scoped=True)

    def _own_folder(self) -> str:
        return f"{self._folder}/{os.getpid()}"


def missing() -> Iterator[str]:
    """Yields what this platform cannot do for the sandboxes of a worker that runs under this account, for people."""
    if sys.platform != "linux":
        yield "this is not Linux: sandboxes are processes with limits and nothing more"
        return
    version = landlock.version()
    if not version:
        yield "no Landlock (Linux 5.13, and enabled): agents read and write what the worker's account may"
    elif version < landlock.NET_VERSION:
        yield f"Landlock {version}, below {landlock.NET_VERSION} (Linux 6.7): agents connect by TCP wherever they like"
    elif version < landlock.SCOPE_VERSION:
        yield f"Landlock {version}, below {landlock.SCOPE_VERSION} (Linux 6.12): agents may signal their account's"
    if not seccomp.available():
        yield "no filter of system calls for this processor: agents have sockets of every kind"
    if not _accounts(version, _code()).own:
        yield (
            "no account of its own for each sandbox (the worker is not root, or lacks one of CAP_SETUID, SETGID, "
            "CHOWN, FOWNER, KILL, DAC_OVERRIDE): they share the worker's and its limit of processes, and may change "
            "rights, times and attributes of its files"
        )


@dataclass(frozen=True)
class _Accounts:
    """Whose the sandboxes are.

    Args:
        own: whether each has an account of its own.
        kept: the capability that it keeps, because its code is closed to other accounts, or others' files are to be
            written; Landlock says which files.
    """

    own: bool
    kept: int | None = None


def _accounts(version: int, code: Iterable[str], writable: Sequence[str] = ()) -> _Accounts:
    if not account.available():
        return _Accounts(own=False)
    is_open = account.open_to_all(code)
    if not version:
        return _Accounts(own=is_open)
    if writable:
        return _Accounts(own=True, kept=account.USE_ANYTHING)
    return _Accounts(own=True, kept=None if is_open else account.READ_ANYTHING)


def _lower(limit: int, wanted: int) -> None:
    """Sets a limit that cannot be raised again; one that is lower already stays."""
    _, hard = resource.getrlimit(limit)
    most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(limit, (most, most))


def _code() -> list[str]:
    """Returns the folders and files that modules come from, those already imported from elsewhere included."""
    found = {sys.prefix, sys.base_prefix, os.path.dirname(os.path.realpath(sys.executable))}  # noqa: PTH120
    found |= {path for path in sys.path if path and os.path.exists(path)}  # noqa: PTH110
    for name, module in list(sys.modules.items()):
        if "." not in name:
            places: Any = getattr(module, "__path__", None) or [getattr(module, "__file__", None)]
            found |= {place for place in places if isinstance(place, str)}
    paths = {os.path.realpath(path) for path in found} - {os.sep}
    return sorted(path for path in paths if not any(_covers(other, path) for other in paths))


def _covers(folder: str, path: str) -> bool:
    """Tells whether what is readable below a folder includes a path: what is hidden in it is not."""
    return path.startswith(folder + os.sep) and os.sep + "." not in path[len(folder) :]


def _hidden(code: Sequence[str]) -> Iterator[str]:
    """Yields what is hidden below folders of the module path, as `.env` and `.git`: a project has its secrets there."""
    installed = tuple(os.path.realpath(prefix) + os.sep for prefix in (sys.prefix, sys.base_prefix))
    for path in code:
        if (path + os.sep).startswith(installed):
            continue
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                hidden = os.path.join(folder, name)  # noqa: PTH118 - paths here are text
                within = os.path.realpath(hidden) + os.sep
                if name.startswith(".") and not any((one + os.sep).startswith(within) for one in code):
                    yield hidden
            folders[:] = (name for name in folders if not name.startswith("."))
