"""The few Linux calls that Python's library lacks. On other systems they do nothing."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
from collections.abc import Container
from ipaddress import IPv6Address, ip_address
from pathlib import Path

_ESTABLISHED = "01"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def die_with_parent(parent: int) -> None:
    """Has the kernel kill this process when the thread that forked it ends; exits if that happened already.

    Args:
        parent: pid of the parent, as it was when we were forked.
    """
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)


def outlive_parent() -> None:
    """Undoes `die_with_parent`, for a process that notices the end of its parent by itself and then has to tidy up."""
    if _libc is not None:
        _libc.prctl(_PR_SET_PDEATHSIG, 0, 0, 0, 0)


def become_subreaper() -> None:
    """Makes this process the parent of its descendants' orphans, so that none of them escapes it."""
    if _libc is not None:
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def step_back(nice: int) -> None:
    """Gives this process, the first of its session, a smaller share of the processor beside others.

    Where the kernel shares out by session (`autogroup` in sched(7)), it is the session's share that counts. Who may not
    set that (the kernel takes ten changes a second from all who are not root) keeps the usual one.

    Args:
        nice: added to the present one; 0 to 19.
    """
    nice = os.nice(nice)
    with contextlib.suppress(OSError):
        fd = os.open("/proc/self/autogroup", os.O_WRONLY)
        try:
            os.write(fd, b"%d" % nice)
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
