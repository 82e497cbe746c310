"""An account of its own for each sandbox, where the worker is root: what it may call its own is its folder."""

from __future__ import annotations

import os
import signal
import stat
import sys
from collections.abc import Iterable
from pathlib import Path

from shared import linux

# systemd's list of user ids leaves this range to nobody. A zygote takes one of its parts by chance, and a sandbox adds
# its pid, of which a PID namespace has at most 2**22: no two that see one another have the same, and hardly any two
# of a machine's containers.
_FIRST_UID, _PIDS, _PARTS = 0x70000000, 2**22, 64
_CHOWN, _FOWNER, _KILL, _SETGID, _SETUID = 0, 3, 5, 6, 7  # linux/capability.h
USE_ANYTHING, READ_ANYTHING = 1, 2  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
_NEEDED = (_CHOWN, _FOWNER, USE_ANYTHING, _KILL, _SETGID, _SETUID)
_KEEP_CAPABILITIES, _AMBIENT, _RAISE = 8, 47, 2


def available() -> bool:
    """Tells whether this process may give accounts: it is root, with the rights for it and with user ids to give."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return False
    return (
        all(_capabilities() >> one & 1 for one in _NEEDED)
        and _mapped(_FIRST_UID)
        and _mapped(_FIRST_UID + _PARTS * _PIDS - 1)
    )


def open_to_all(paths: Iterable[str]) -> bool:
    """Tells whether every account may get to these folders and files, and read them."""
    return all(_open(Path(path)) for path in paths)


def _open(path: Path) -> bool:
    try:
        on_the_way = all(parent.stat().st_mode & stat.S_IXOTH for parent in path.parents)
        return on_the_way and bool(path.stat().st_mode & stat.S_IROTH)
    except FileNotFoundError:
        return True


def first_uid() -> int:
    """Returns the first user id of a part of the range, for one zygote."""
    return _FIRST_UID + _PIDS * (os.urandom(1)[0] % _PARTS)


def take(folder: str, first_uid: int, kept: int | None = None) -> None:
    """Gives this process the account of its pid, which owns its folder.

    Args:
        first_uid: of its zygote's part of the range.
        kept: a capability that it keeps, and Landlock has to confine: `READ_ANYTHING` or `USE_ANYTHING`, whatever the
            file system's rights say. Programs that it starts have it, too.

    Raises:
        OSError: the kernel refuses.
    """
    uid = first_uid + os.getpid()
    os.chown(folder, uid, uid)
    os.setgroups([])
    if kept is not None:
        linux.prctl(_KEEP_CAPABILITIES, 1)
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    if kept is not None:
        linux.keep_capabilities(1 << kept)
        linux.prctl(_AMBIENT, _RAISE, kept)


def of(pid: int) -> int | None:
    """Returns the account of its own that a process has; None if it has none, or is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    uid = next(int(line.split()[1]) for line in lines if line.startswith("Uid:"))
    return uid if _FIRST_UID <= uid < _FIRST_UID + _PARTS * _PIDS else None


def pid_of(uid: int) -> int:
    """Returns the pid of the sandbox that an account was given to."""
    return (uid - _FIRST_UID) % _PIDS


def kill_all(uid: int) -> None:
    """Kills all processes of a sandbox's account at once: one by one, they could fork faster than they are found.

    Raises:
        OSError: there is no process to be had for it, or they have killed it first.
    """
    if (child := os.fork()) == 0:
        try:
            os.setresuid(uid, uid, uid)
            os.kill(-1, signal.SIGKILL)  # all that this account may signal, but for itself
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitpid(child, 0)[1]:
        raise ChildProcessError(f"the processes of the account {uid} are not killed")


def _capabilities() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1], 16) for line in lines if line.startswith("CapEff:")), 0)


def _mapped(uid: int) -> bool:
    """Tells whether this user namespace has a user id."""
    for line in Path("/proc/self/uid_map").read_text().splitlines():
        first, _, count = map(int, line.split())
        if first <= uid < first + count:
            return True
    return False


def tasks() -> int:
    """Returns how many processes and threads this account has on the machine."""
    count, uid = 0, os.getuid()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == uid:
                    count += len(list(Path(entry.path, "task").iterdir()))
            except OSError:  # it has just ended
                continue
    return count
