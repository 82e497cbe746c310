"""The zygote: imports the agents, runs none of them, forks a sandbox for each run. `python -m worker.zygote`.

It has one thread and no key, URL or connection in its memory, so that what it forks is clean. It talks with its worker
in packets of JSON over the socket that is its standard input:

    in    {"op": "fork", "id": 7} with one file descriptor · {"op": "kill", "id": 7, "signal": 9}
    out   {"op": "agent", …} for each agent, {"op": "ready", "pid", "notes", "named"} or {"op": "failed", "message"} ·
          {"op": "forked", "id", "pid"} or {"op": "refused", "id", "message"} · {"op": "signalled", "id"} ·
          {"op": "exited", "id", "status", "signal", "cpu_s", "max_rss_kb"}
"""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections import deque
from typing import Any

from shared import linux
from shared.errors import LanewiseError
from worker import sandbox
from worker.discovery import load_agents
from worker.folders import start_removing
from worker.keeper import kill_group
from worker.mcp import config as mcp
from worker.mcp import sessions as mcp_sessions
from worker.registry import AgentClassRegistry
from worker.rehearsal import rehearse
from worker.walls import Confinement, Walls, account, missing

MAX_PACKET = 65_536
MAX_REMOVERS = 2  # at once


class Zygote:
    """Forks, reaps, and leaves nothing behind.

    Args:
        control: the packet socket to the worker.
        registry: the agents.
        walls: for each sandbox.
        folder: where sandboxes have their folders.
    """

    def __init__(self, control: socket.socket, registry: AgentClassRegistry, walls: Walls, folder: str) -> None:
        self._control = control
        self._registry = registry
        self._walls = walls
        self._folder = folder
        self._pids: dict[int, int] = {}  # pid -> id
        self._removers: set[int] = set()
        self._leavings: deque[str] = deque()
        self._numbers = itertools.count(1)
        self._unsent: deque[bytes] = deque()
        self._wake, self._notify = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def serve(self) -> None:
        """Works until the worker closes the control socket. Our keeper ends what is left then, and always."""
        signal.set_wakeup_fd(self._notify, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        while True:
            poll.register(self._control, select.POLLIN | (select.POLLOUT if self._unsent else 0))
            ready = dict(poll.poll())
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake, 4096)
                self._reap()
            asked = ready.get(self._control.fileno(), 0)
            if asked & select.POLLOUT:
                self._flush()
            if asked & ~select.POLLOUT and not self._receive():
                return

    def _receive(self) -> bool:
        try:
            packet, fds, _, _ = socket.recv_fds(self._control, MAX_PACKET, 1)
        except ConnectionResetError:  # the worker is gone and has left unread what we said
            return False
        if not packet:
            return False
        request = json.loads(packet)
        if request["op"] == "fork" and not fds:
            self._send({"op": "refused", "id": request["id"], "message": "too many open files"})
        elif request["op"] == "fork":
            self._fork(request["id"], fds[0])
        else:
            self._kill(request["id"], request["signal"])
        return True

    def _fork(self, number: int, fd: int) -> None:
        me = os.getpid()
        self._walls.count_tasks()
        try:
            pid = os.fork()
        except OSError as error:  # no memory, too many processes: this one run has to wait, the others live on
            os.close(fd)
            self._send({"op": "refused", "id": number, "message": str(error)})
            return
        if pid == 0:
            self._become_sandbox(me, fd)
        os.close(fd)
        self._pids[pid] = number
        self._send({"op": "forked", "id": number, "pid": pid})

    def _become_sandbox(self, parent: int, fd: int) -> None:
        try:
            linux.die_with_parent(parent)
            # What an agent starts and forgets stays below it, and goes when it goes; else we took it for left behind.
            linux.become_subreaper()
            signal.set_wakeup_fd(-1)
            os.close(self._wake)  # whoever could read from it could hide the deaths of others
            os.close(self._notify)
            self._control.close()
            sandbox.detach()
            self._walls.enter()
            linux.die_with_parent(parent)  # the kernel forgets it when a process changes its account
            sandbox.run(socket.socket(fileno=fd), self._registry, self._walls)
        except BaseException:  # noqa: BLE001 - seen in the worker's log if it happened before the agent began
            traceback.print_exc()
        finally:  # whatever happened, a sandbox never returns into the zygote's loop
            os._exit(1)

    def _kill(self, number: int, signum: int) -> None:
        for pid, known in self._pids.items():
            if known == number:
                kill_group(pid, signum)
        self._send({"op": "signalled", "id": number})

    def _reap(self) -> None:
        while (found := _exited()) is not None:
            # While the dead leader is not reaped its pid, and so its group's id, belongs to nobody else.
            kill_group(found, signal.SIGKILL)
            _, status, usage = os.wait4(found, 0)
            self._removers.discard(found)
            number = self._pids.pop(found, None)
            if number is None:
                continue
            self._put_aside(f"{self._folder}/{found}")
            code = os.waitstatus_to_exitcode(status)
            self._send(
                {
                    "op": "exited", "id": number, "status": max(code, 0), "signal": max(-code, 0),
                    "cpu_s": usage.ru_utime + usage.ru_stime, "max_rss_kb": usage.ru_maxrss,
                }
            )  # fmt: skip
        # Whoever is our child and no sandbox has lost its parent: it left its group, or its sandbox is dead.
        for pid in linux.children():
            if pid not in self._pids and pid not in self._removers:
                self._end_orphan(pid)
        while self._leavings and len(self._removers) < MAX_REMOVERS:
            self._removers.add(start_removing(self._leavings.popleft()))

    def _end_orphan(self, pid: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        uid = account.of(pid)
        # With all of its account, unless a living sandbox has that of its sandbox again, whose pid was free.
        if uid is not None and account.pid_of(uid) not in self._pids:
            with contextlib.suppress(OSError):  # the next look tries again
                account.kill_all(uid)

    def _put_aside(self, folder: str) -> None:
        """Removes an empty folder; what is in another one is removed meanwhile, for nobody is to wait for that."""
        try:
            os.rmdir(folder)  # noqa: PTH106 - most sandboxes leave nothing in it
        except FileNotFoundError:  # it died before it had one
            return
        except OSError:
            aside = f"{self._folder}/left-{next(self._numbers)}"  # the pid, and so the name, may come again
            os.rename(folder, aside)  # noqa: PTH104
            self._leavings.append(aside)

    def _send(self, message: dict[str, Any]) -> None:
        self._unsent.append(json.dumps(message).encode())
        self._flush()

    def _flush(self) -> None:
        """Sends what the worker has room for. A worker that does not read must not keep us from reaping."""
        with contextlib.suppress(BlockingIOError):
            while self._unsent:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it is gone: the next read says so
                    self._control.send(self._unsent[0], socket.MSG_DONTWAIT)
                self._unsent.popleft()


def _exited() -> int | None:
    """Returns the pid of a child that has exited, leaving it to be reaped."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found else None


def main() -> None:
    """Starts from an exec: the arguments are our keeper's pid, the sandboxes' folder, their `Confinement` as JSON."""
    linux.die_with_parent(int(sys.argv[1]))
    linux.hide_memory()
    gc.disable()  # holes in the memory that is shared would be filled, and so copied, by every sandbox
    control = socket.socket(fileno=0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the supervisor; the worker tells us when to end
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    linux.become_subreaper()
    try:
        loaded = load_agents(filter(None, os.environ.get("LANEWISE_AGENTS", "").split(",")))
        servers, notes = mcp.load_servers(os.environ.get(mcp.SETTING), loaded.registry.names())
    except LanewiseError as error:
        control.send(json.dumps({"op": "failed", "message": error.message[:4000]}).encode())
        sys.exit(1)
    loaded.registry.mcp_servers = servers
    if servers:
        mcp_sessions.preload()
    for entry in loaded.registry.catalogue():
        control.send(json.dumps({"op": "agent", **entry}).encode())
    notes = [*loaded.notes, *notes, *(f"sandboxes: {one}" for one in missing())]
    folder = sys.argv[2]
    walls = Walls(Confinement(**json.loads(sys.argv[3])), folder)
    try:
        walls.enclose()
    except OSError as error:
        control.send(json.dumps({"op": "failed", "message": f"sandboxes cannot be walled in: {error}"}).encode())
        sys.exit(1)
    control.send(json.dumps({"op": "ready", "pid": os.getpid(), "notes": notes, "named": loaded.named}).encode())
    rehearse()
    gc.freeze()  # what is there now is garbage of nobody: collections in sandboxes must not touch and so copy it
    gc.enable()
    zygote = Zygote(control, loaded.registry, walls, folder)
    zygote.serve()
    os._exit(0)  # libraries that complain at the interpreter's end have nothing to tell anybody here


if __name__ == "__main__":
    main()
