"""Landlock: what a process may reach in the file system and by TCP, and whom it may signal. See landlock(7).

A process gives rights up for itself and all that it starts, for ever, root included; what it gives up twice must be
permitted twice. The constants are those of the kernel's `linux/landlock.h`; a kernel that knows less says which version
it is, and is asked for no more.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Collection, Iterable, Iterator

from shared import linux

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same numbers on every architecture
_PATH_BENEATH, _NET_PORT = 1, 2
_VERSION_FLAG = 1

_EXECUTE, _WRITE_FILE, _READ_FILE, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_OF_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
READ = _EXECUTE | _READ_FILE | READ_DIR
ALL = (1 << 16) - 1
_OF_VERSION = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 5: ALL}
_CONNECT_TCP, _BIND_TCP = 1 << 1, 1 << 0
_SCOPES = 0b11  # abstract sockets and signals
NET_VERSION, SCOPE_VERSION = 4, 6  # Linux 6.7 and 6.12


def version() -> int:
    """Returns the version of Landlock that the kernel offers, 0 if none."""
    try:
        return linux.syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


class Ruleset:
    """Who is confined by it may do nothing with files but what its rules permit.

    Args:
        of_version: of Landlock, as the kernel offers it.
        rules: path and rights; a path that is not there is passed over.
    """

    def __init__(self, of_version: int, rules: Iterable[tuple[str, int]]) -> None:
        self._version = of_version
        self._handled = max(rights for since, rights in _OF_VERSION.items() if since <= of_version)
        self._fds: list[int] = []
        self._rules: list[bytes] = []  # struct landlock_path_beneath_attr
        for path, rights in rules:
            self.permit(path, rights)

    def permit(self, path: str, rights: int) -> None:
        """Adds a rule for a file, or a folder and all that is in it."""
        try:
            fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            return
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _OF_FILES
        self._fds.append(fd)
        self._rules.append(struct.pack("=Qi", rights & self._handled, fd))

    def enforce(self, tcp_ports: Iterable[int] | None = None, *, scoped: bool = False) -> None:
        """Confines this process, which has one thread, for good.

        Args:
            tcp_ports: those that it may connect to, on any machine; it listens on none. None: TCP is not confined.
            scoped: whether it may signal only what was started under this very confinement.

        Raises:
            OSError: the kernel refuses; nothing is confined then.
        """
        net = _CONNECT_TCP | _BIND_TCP if tcp_ports is not None and self._version >= NET_VERSION else 0
        scopes = _SCOPES if scoped and self._version >= SCOPE_VERSION else 0
        known = 8 if self._version < NET_VERSION else 16 if self._version < SCOPE_VERSION else 24
        attributes = struct.pack("QQQ", self._handled, net, scopes)[:known]
        ruleset = linux.syscall(_CREATE_RULESET, attributes, known, 0)
        for rule in self._rules:
            linux.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0)
        for port in tcp_ports or () if net else ():
            linux.syscall(_ADD_RULE, ruleset, _NET_PORT, struct.pack("QQ", _CONNECT_TCP, port), 0)
        linux.syscall(_RESTRICT_SELF, ruleset, 0)
        for fd in (*self._fds, ruleset):
            os.close(fd)


def open_parts(path: str, closed: Collection[str]) -> Iterator[tuple[str, int]]:
    """Yields rules for reading what is below a path: one for all of it if nothing in it is closed.

    Of a folder that has something closed, only what is there now can be read.
    """
    path = os.path.realpath(path)
    if any(path == one or path.startswith(one + os.sep) for one in closed):
        return
    if not any(one.startswith(path + os.sep) for one in closed):
        yield path, READ
        return
    yield path, READ_DIR  # an import looks what is there
    try:
        names = os.listdir(path)  # noqa: PTH208 - as below
    except OSError:
        return
    for name in names:
        yield from open_parts(os.path.join(path, name), closed)  # noqa: PTH118 - paths here are text
