"""The few Linux calls that Python's library lacks. On other systems they do nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import resource
import signal
import struct
import sys
from collections.abc import Container
from ipaddress import IPv6Address, ip_address
from pathlib import Path

_ESTABLISHED = "01"
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38
_CAPABILITY_VERSION = struct.pack("Ii", 0x20080522, 0)  # and whose: our own
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
AVAILABLE = _libc is not None


def prctl(option: int, first: int, second: int = 0) -> None:
    """Sets something about this process, see the manual page of that name.

    Raises:
        OSError: the kernel refuses, or there is no such call.
    """
    if _libc is None or _libc.prctl(option, first, second, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), f"prctl option {option} is refused")


def syscall(number: int, *arguments: int | bytes | None) -> int:
    """Does a system call that the C library has no function for, and returns what the kernel answers.

    Args:
        arguments: integers of at most 31 bits, bytes (their address is passed) or None.

    Raises:
        OSError: the kernel refuses, or there is no such call.
    """
    if _libc is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    if (result := int(_libc.syscall(number, *arguments))) < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"system call {number}: {os.strerror(code)}")
    return result


def keep_capabilities(kept: int = 0) -> None:
    """Gives up all capabilities of this process but some, see capabilities(7).

    Args:
        kept: one bit for each; of the first 32.

    Raises:
        OSError: the kernel refuses.
    """
    if _libc is not None and _libc.capset(_CAPABILITY_VERSION, struct.pack("6I", kept, kept, kept, 0, 0, 0)) != 0:
        raise OSError(ctypes.get_errno(), "capabilities cannot be given up")


def hide_memory(*, hidden: bool = True) -> None:
    """Closes this process's memory, descriptors and environment to others of its account, and leaves no core dump.

    What it forks is closed too; what it starts anew is not.
    """
    if _libc is not None:
        prctl(_PR_SET_DUMPABLE, int(not hidden))


def die_with_parent(parent: int, signum: int = signal.SIGKILL) -> None:
    """Has the kernel kill this process when the thread that forked it ends; exits if that happened already.

    Args:
        parent: pid of the parent, as it was when we were forked.
        signum: what the kernel sends.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signum, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def become_subreaper() -> None:
    """Makes this process the parent of its descendants' orphans, so that none of them escapes it."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def give_up_privileges() -> None:
    """Has no program that this process starts give it more rights than it has, for good (set-user-ID programs)."""
    if _libc is not None:
        prctl(_PR_SET_NO_NEW_PRIVS, 1)


def step_back(nice: int) -> None:
    """Gives this process, the first of its session, a smaller share of the processor beside others.

    Where the kernel shares out by session (`autogroup` in sched(7)), it is the session's share that counts. Who may not
    set that (the kernel takes ten changes a second from all who are not root) keeps the usual one.

    Args:
        nice: added to the present one; 0 to 19.
    """
    _write("/proc/self/autogroup", os.nice(nice))


def die_first() -> None:
    """Has the kernel kill this process, or one that it starts, before others when the machine's memory is used up."""
    _write("/proc/self/oom_score_adj", 1000)


def _write(path: str, number: int) -> None:
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_WRONLY)
        try:
            os.write(fd, b"%d" % number)
        finally:
            os.close(fd)


def children() -> list[int]:
    """Returns the pids of this single-threaded process's direct children."""
    try:
        return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]
    except OSError:
        return []


def raise_file_limit(wanted: int) -> int:
    """Lets this process open so many files, sockets among them, or as many as it may; returns how many it may then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return wanted
    possible = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    with contextlib.suppress(OSError, ValueError):  # above what the kernel gives to any process
        resource.setrlimit(resource.RLIMIT_NOFILE, (possible, hard))
        soft = possible
    return soft


def address_space() -> int:
    """Returns how many bytes of address space this process has in use; 0 where that cannot be read."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def connected_addresses(peer_ports: Container[int]) -> set[tuple[str, int]]:
    """Returns our end, address and port, of the TCP sockets of this network namespace connected to one of some ports.

    One port here may lead to several peers at once: without the peer's port an address says nothing of a connection.
    """
    found = set()
    for name in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{name}").read_text().splitlines()[1:]
        except OSError:  # no /proc, or no IPv6
            continue
        for line in lines:
            _, local, peer, state, *_ = line.split(maxsplit=4)
            if state == _ESTABLISHED and int(peer.partition(":")[2], 16) in peer_ports:
                address, port = local.split(":")
                found.add((_address(address), int(port, 16)))
    return found


def _address(text: str) -> str:
    """Reads an address as the kernel writes it: words of four bytes, each in the machine's order."""
    words = (int(text[start : start + 8], 16).to_bytes(4, sys.byteorder) for start in range(0, len(text), 8))
    address = ip_address(b"".join(words))
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


def threads() -> int:
    """Returns how many threads this process has, those of C libraries included."""
    try:
        return sum(1 for _ in Path("/proc/self/task").iterdir())
    except OSError:
        import threading  # noqa: PLC0415 - where there is no /proc

        return threading.active_count()
