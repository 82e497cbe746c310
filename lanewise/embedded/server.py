"""What the embedded servers have in common: a folder that only one of them uses at a time, a port, start and stop."""

from __future__ import annotations

import fcntl
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Self

from lanewise.ports import free_port
from lanewise.process import Process, ProcessSpec, StartError, wait_until

START_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 30.0


class EmbeddedServer(ABC):
    """One server of our own on a free loopback port, its data kept between starts.

    Use it as a context manager, or hand `prepare()` to a supervisor and ask `ready()`; then `close()` it at the end.

    Args:
        data_dir: the data folder of `lanewise up`; the server keeps to `data_dir/<name>` and `data_dir/log`.
    """

    name: str

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir.absolute()
        self.folder = self.data_dir / self.name
        self.log = self.data_dir / "log" / f"{self.name}.log"
        self.port = free_port()
        self._lock: int | None = None
        self._process: Process | None = None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({str(self.data_dir)!r}, port={self.port})"

    @abstractmethod
    def prepare(self) -> ProcessSpec:
        """Makes the folder if there is none, takes its lock, and returns what is to be started."""

    @abstractmethod
    def ready(self) -> bool:
        """Tells whether the server answers; takes two seconds at most."""

    def start(self) -> Self:
        """Starts the server and waits until it answers.

        Raises:
            StartError: with the server's last words.
        """
        self._process = process = Process(self.prepare())
        answers = wait_until(lambda: process.exit_code is not None or self.ready(), START_TIMEOUT_S)
        if process.exit_code is not None or not answers:
            message = f"{self.name} {process.ending} but does not answer:\n{process.last_lines()}"
            self.stop()
            raise StartError(message)
        return self

    @property
    def pid(self) -> int | None:
        """The process id, if it was started here."""
        return None if self._process is None else self._process.pid

    def stop(self) -> None:
        """Stops the server; its data stays."""
        if self._process is not None:
            self._process.stop()
            self._process = None
        self.close()

    def close(self) -> None:
        """Gives up the folder's lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _take_lock(self) -> int:
        """Locks the folder, waiting for a server that is just ending in it.

        The server inherits the descriptor: the lock lasts as long as the longest-lived of us, so that a server which
        outlives a killed parent by a moment never shares its files with its successor.
        """
        self._lock = lock = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        if not wait_until(lambda: _try_lock(lock), LOCK_TIMEOUT_S):
            self.close()
            raise StartError(f"another {self.name} still runs in {self.folder}")
        return lock


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
