"""An agent that tries to get out of its sandbox, in every way that we could think of."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import resource
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lanewise import Agent, AgentRun, UserExecutionContext

_libc = ctypes.CDLL(None, use_errno=True)
_PTRACE_ATTACH, _PTRACE_DETACH = 16, 17
_SHMGET = 29  # on x86-64
THREADS, FORKS = 240, 30  # together more than a sandbox may have


def _checked(result: int) -> int:
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result


def _as_far_as_it_goes(limit: int) -> None:
    hard = resource.getrlimit(limit)[1]
    resource.setrlimit(limit, (hard, hard))


def read_file(path: str) -> str:
    return Path(path).read_bytes()[:4096].decode("latin-1")


def list_folder(path: str) -> list[str]:
    return [entry.name for entry in Path(path).iterdir()]


def write_file(path: str) -> bool:
    Path(path).write_text("was here")
    return True


def read_memory(pid: int) -> bool:
    """Reads the first readable page of another process."""
    with Path(f"/proc/{pid}/maps").open() as maps:
        start = int(maps.readline().split("-")[0], 16)
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(start)
        return len(memory.read(16)) == 16


def vm_read(pid: int, address: int) -> bool:
    class Part(ctypes.Structure):
        _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))

    buffer = ctypes.create_string_buffer(16)
    ours, theirs = Part(ctypes.addressof(buffer), 16), Part(address, 16)
    return _checked(_libc.process_vm_readv(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)) == 16


def trace(pid: int) -> bool:
    _libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
    _checked(_libc.ptrace(_PTRACE_ATTACH, pid, None, None))
    os.waitpid(pid, 0)
    _libc.ptrace(_PTRACE_DETACH, pid, None, None)
    return True


def descriptors(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]


def deep_folder() -> bool:
    """Leaves folders in one another, more than Python's own way to remove them can follow."""
    for _ in range(1200):
        os.mkdir("a")  # noqa: PTH102
        os.chdir("a")
    return True


def send_signal(pid: int) -> bool:
    os.kill(pid, signal.SIGCONT)  # does nothing to who is not stopped
    return True


def connect(port: int) -> bool:
    socket.create_connection(("127.0.0.1", port), timeout=5).close()
    return True


def fast_open(port: int) -> bool:
    """Connects by sending, which is another call than connect(2)."""
    with socket.socket() as sock:
        sock.sendto(b"PING\r\n", socket.MSG_FASTOPEN, ("127.0.0.1", port))
    return True


def datagram(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", ("127.0.0.1", port))
    return True


def listen() -> bool:
    with socket.create_server(("127.0.0.1", 0)):
        return True


def listen_anywhere() -> bool:
    """Listens without having asked for an address: the kernel finds one."""
    with socket.socket() as sock:
        sock.listen()
        return bool(sock.getsockname()[1])


def abstract(name: str) -> bool:
    """Connects to a local socket that has a name and no file."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(f"\0{name}")
    return True


def other_sockets() -> bool:
    socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM).close()
    return True


def forks() -> bool:
    """Makes processes until there would be more than it may have. Most places are taken by threads, which cost less."""
    _as_far_as_it_goes(resource.RLIMIT_NPROC)
    made: list[int] = []
    with _threads(THREADS):
        try:
            while len(made) < FORKS:
                if (pid := os.fork()) == 0:
                    signal.pause()
                made.append(pid)
        finally:
            for pid in made:
                os.kill(pid, signal.SIGKILL)
            for pid in made:
                os.waitpid(pid, 0)
    return True


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    done = threading.Event()
    started = [threading.Thread(target=done.wait) for _ in range(count)]
    try:
        for thread in started:
            thread.start()
        yield
    finally:
        done.set()


def allocate(gib: int) -> bool:
    _as_far_as_it_goes(resource.RLIMIT_AS)
    mmap.mmap(-1, gib * 1024**3).close()  # not touched: no machine is used up by it
    return True


def big_file() -> bool:
    _as_far_as_it_goes(resource.RLIMIT_FSIZE)
    with Path("big").open("wb") as file:
        file.seek(10 * 1024**3)
        file.write(b"x")  # nearly all of it is a hole
    return True


def too_many_files() -> list[int]:
    return [os.open(os.devnull, os.O_RDONLY) for _ in range(3000)]


def resolve(name: str) -> str:
    return str(socket.getaddrinfo(name, 80))


def open_files() -> int:
    """Opens files until it may not."""
    _as_far_as_it_goes(resource.RLIMIT_NOFILE)
    files: list[int] = []
    try:
        while len(files) < 3000:
            files.append(os.open(os.devnull, os.O_RDONLY))
    except OSError:
        pass
    for fd in files:
        os.close(fd)
    return len(files)


def namespaces() -> bool:
    """Becomes root in a user namespace of its own, where it may mount and make networks."""
    if (pid := os.fork()) == 0:  # a process with several threads may not in any case
        os._exit(0 if _libc.unshare(0x10000000 | 0x00020000) == 0 else ctypes.get_errno())
    if code := os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise OSError(code, "refused")
    return True


def shared_memory() -> bool:
    """Makes System V shared memory, which outlives the process and is the account's."""
    identity = _checked(_libc.shmget(0x6C616E65, 4096, 0o1000 | 0o666))
    _libc.shmctl(identity, 0, None)
    return True


def become_root(program: str) -> bool:
    """Runs a set-user-ID program that says as whom it runs."""
    done = subprocess.run([program, "-u"], capture_output=True, check=True, text=True)
    if int(done.stdout) != 0:
        raise PermissionError(0, "it ran as us")
    return True


def limit_other(pid: int) -> bool:
    """Sets a limit of another process, as one that would end it."""
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    return True


def memory_files() -> bool:
    """Makes files in memory, which no limit of memory counts."""
    os.close(os.memfd_create("hidden"))
    return True


def local_socket(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
    return True


def hurry() -> int:
    """Takes more of the processor than the service."""
    return os.nice(-5)


def threads() -> bool:
    """Starts more threads than it may have."""
    _as_far_as_it_goes(resource.RLIMIT_NPROC)
    with _threads(THREADS + FORKS):
        return True


ATTACKS: dict[str, Callable[..., Any]] = {
    attack.__name__: attack
    for attack in (
        read_file, list_folder, write_file, read_memory, vm_read, trace, descriptors, send_signal, connect, fast_open,
        datagram, listen, listen_anywhere, abstract, other_sockets, forks, allocate, big_file, open_files, namespaces,
        shared_memory, become_root, hurry, threads, limit_other, memory_files, local_socket, too_many_files,
        resolve, deep_folder,
    )
}  # fmt: skip


class Attack(Agent):
    """Tries one attack and tells what came of it; waits before it ends, if it is asked to."""

    name = "attack"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        try:
            return {"got": ATTACKS[given["attack"]](*given.get("arguments", ()))}
        except (OSError, MemoryError, ValueError, RuntimeError) as error:
            return {"refused": type(error).__name__, "errno": getattr(error, "errno", None)}


class Connected(Attack):
    """The same, with a network."""

    name = "connected"
    network = True


class Confess(Agent):
    """Lets the error of an attack go to the user."""

    name = "confess"

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        given = run.input.model_dump()
        return ATTACKS[given["attack"]](*given.get("arguments", ()))
