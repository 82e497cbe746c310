"""The stand of the gateway's benchmarks: our gateway and two others on the same Redis, readers, and publishers."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import psutil

from benchmarks.fleet import ROOT, Fleet, child_environment, pss_mib
from lanewise.ports import LOOPBACK, free_port
from lanewise.process import wait_until
from shared.redis import Keys

START_S = 20.0
ANSWER_S = 240.0
PUBLISH_S = 60.0
HELLO = '{"t":"hello","v":1,"after":%s}'


@dataclass(frozen=True)
class Server:
    """One of those that are compared.

    Args:
        name: for the report.
        process: the one that serves, or its parent.
        port: on the loopback interface.
        fleet: of the Redis behind it.
        ours: whether clients sign in and say hello; the others believe the path.
    """

    name: str
    process: psutil.Process
    port: int
    fleet: Fleet
    ours: bool = False

    def socket(self, user_id: str, number: int, after: int | None = None) -> dict[str, Any]:
        """Returns what `watchers` needs to open a socket of the user's, whose events it calls `number`'s.

        Args:
            after: for our hello: the last event that the client has; None: it wants a snapshot.
        """
        address = {"host": LOOPBACK, "port": self.port, "user": number}
        if self.ours:
            return {
                **address,
                "path": "/v1/stream",
                "token": self.fleet.token(user_id),
                "hello": HELLO % json.dumps(after),
            }
        return {**address, "path": f"/{keys(self.fleet).events(user_id)}"}

    @cached_property
    def processes(self) -> list[psutil.Process]:
        """All of it."""
        return [self.process, *self.process.children(recursive=True)]

    def pss_kib(self) -> float:
        """Returns its memory, shared pages divided among those who share them."""
        return sum(pss_mib(process.pid) for process in self.processes) * 1024

    def cpu_s(self) -> float:
        """Returns the processor time that it has used."""
        return sum(sum(process.cpu_times()[:2]) for process in self.processes)


def keys(fleet: Fleet) -> Keys:
    """Returns the names of the fleet's channels."""
    return Keys(fleet.environment.get("LANEWISE_DEPLOYMENT", "default"))


@contextmanager
def lanewise(fleet: Fleet, app: str = "api.wsgi:app") -> Iterator[Server]:
    """Runs another gateway of the fleet, as `lanewise up` does."""
    port = free_port()
    argv = ["-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--bind", f"{LOOPBACK}:{port}", app]
    with _running(
        "Lanewise",
        argv,
        port,
        fleet,
        {**fleet.environment, "LANEWISE_REDIS_URL": fleet.redis_url, "LANEWISE_LOG_LEVEL": "ERROR"},
    ) as server:
        yield server


@contextmanager
def flask_sock(fleet: Fleet) -> Iterator[Server]:
    """Runs the loop of Flask-Sock's documentation in gunicorn, with as many connections as ours may have."""
    port = free_port()
    argv = ["gunicorn", "--bind", f"{LOOPBACK}:{port}", "--worker-class", "gevent", "--worker-connections", "20000",
            "--graceful-timeout", "1", "benchmarks.stock_flask_sock:app"]  # fmt: skip
    with _running("flask-sock", ["-m", *argv], port, fleet) as server:
        yield server


@contextmanager
def websockets(fleet: Fleet) -> Iterator[Server]:
    """Runs a server of the websockets library that broadcasts."""
    port = free_port()
    with _running("websockets", ["-m", "benchmarks.stock_websockets", str(port)], port, fleet) as server:
        yield server


@contextmanager
def _running(
    name: str, argv: list[str], port: int, fleet: Fleet, environment: Mapping[str, str] | None = None
) -> Iterator[Server]:
    environment = environment or child_environment(REDIS_URL=fleet.redis_url, CHANNELS="*:events")
    process = subprocess.Popen(
        [sys.executable, *argv], cwd=ROOT, env={**environment, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL
    )
    try:
        main = psutil.Process(process.pid)
        if not wait_until(lambda: any(found.laddr.port == port for found in main.net_connections()), START_S):
            raise TimeoutError(f"{name} did not start")
        yield Server(name, main, port, fleet, ours=name == "Lanewise")
    finally:
        process.terminate()
        process.wait(START_S)


class Readers:
    """A process of `benchmarks.watchers`. Use it as a context."""

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.watchers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=ROOT,
            env=child_environment(),
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def ask(self, command: str, **options: Any) -> dict[str, Any]:
        """Gives a command, see `watchers`, and returns the answer."""
        self.tell(command, **options)
        return self.answer()

    def tell(self, command: str, **options: Any) -> None:
        """Gives a command whose answer is asked for later."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": command, **options}).encode() + b"\n")
        self._process.stdin.flush()

    def answer(self, timeout_s: float = ANSWER_S) -> dict[str, Any]:
        """Returns the answer to the last command.

        Raises:
            TimeoutError: it did not come.
        """
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], timeout_s)
        line = self._process.stdout.readline() if ready else b""
        if not line:
            raise TimeoutError("the readers gave no answer: frames are missing, or they failed")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Publisher:
    """A process of `benchmarks.publisher` that publishes to the streams of some runs, from now on."""

    def __init__(self, fleet: Fleet, runs: Sequence[tuple[str, str]], rate: float, seconds: float, size: int) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe would hold it up; closed by `result`
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.publisher"],
            stdin=subprocess.PIPE,
            stdout=self._said,
            cwd=ROOT,
            env={**fleet.environment, "PYTHONPATH": str(ROOT)},
        )
        parameters = {"runs": runs, "rate": rate, "seconds": seconds, "size": size}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(parameters).encode())
        self._process.stdin.close()

    def result(self) -> dict[str, Any]:
        """Waits for its end, and returns what it says."""
        if self._process.wait(PUBLISH_S):
            raise RuntimeError("the publisher failed")
        with self._said as said:
            said.seek(0)
            answer: dict[str, Any] = json.load(said)
        return answer

    @property
    def busy(self) -> bool:
        """Whether it has more to publish."""
        return self._process.poll() is None
