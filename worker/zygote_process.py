"""One zygote as a process of the worker, with its keeper: its start, what is said to it and by it, its end."""

from __future__ import annotations

import array
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import structlog

from worker.folders import remove
from worker.keeper import END, KILLED, REMOVE_TIMEOUT_S
from worker.walls import Confinement
from worker.zygote import MAX_PACKET

log = structlog.get_logger(__name__)


class ZygoteProcess:
    """Starts a zygote. The kernel ends it, with all that is below it, when the thread that started it ends.

    Args:
        confinement: of each sandbox.
        passed: names of the environment variables that it is given.
    """

    def __init__(self, confinement: Confinement, passed: Sequence[str]) -> None:
        self.pid: int | None = None  # the zygote's own; this and its agents are there when it has said them
        self.agents: list[dict[str, Any]] = []
        self._folder = tempfile.mkdtemp(prefix="lanewise-")
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {name: os.environ[name] for name in passed if name in os.environ}
        environment |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "HOME": self._folder}
        # By default glibc reserves 64 MiB of the sandbox's address space for each thread, e.g. each tool call.
        environment |= {"MALLOC_ARENA_MAX": "2"}
        try:
            with theirs:
                self._keeper = subprocess.Popen(
                    [
                        sys.executable, "-m", "worker.keeper",
                        str(os.getpid()), self._folder, json.dumps(asdict(confinement)),
                    ],
                    stdin=theirs.fileno(),
                    env=environment,
                    start_new_session=True,
                )  # fmt: skip
        except BaseException:
            self._control.close()
            remove(self._folder, REMOVE_TIMEOUT_S)
            raise

    def send(self, request: dict[str, Any], fds: Sequence[int] = ()) -> None:
        """Sends a request, and descriptors with it. It never waits.

        Raises:
            OSError: it is gone, or so much waits to be read by it that there is no room (`BlockingIOError`).
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self._control.sendmsg([json.dumps(request).encode()], rights, socket.MSG_DONTWAIT)

    def messages(self, tick_s: float) -> Iterator[dict[str, Any] | None]:
        """Yields what it says, until nothing is left of it and of what was below it; None when it is silent for a tick.

        Raises:
            ValueError: it is not JSON.
        """
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        while True:
            if not poll.poll(tick_s * 1000):
                yield None
                continue
            try:
                packet = self._control.recv(MAX_PACKET * 4)
            except ConnectionResetError:  # it left requests unread; what it said before comes after this
                continue
            if not packet:
                return
            yield json.loads(packet)

    def end(self) -> None:
        """Has its keeper end it and all that is below it; the end of `messages` tells when that is done."""
        self._keeper.send_signal(END)
        self._keeper.send_signal(signal.SIGCONT)  # it may have been stopped, too

    def bury(self) -> int | None:
        """Waits until its keeper has exited and the folder is gone; returns the zygote's status, negative: its signal.

        A keeper that takes longer than ten seconds is left to do the rest by itself, and None is returned.
        """
        self._control.close()
        try:
            code = self._keeper.wait(REMOVE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            log.warning(
                "a keeper has not ended all that was below it yet, or not removed the folder", pid=self._keeper.pid
            )
            return None
        if not remove(self._folder, REMOVE_TIMEOUT_S):  # a keeper that was killed has not done it
            log.warning("the folder of dead sandboxes is not removed", folder=self._folder)
        return KILLED - code if code > KILLED else code
