"""Real Celery workers for pytest-celery's fixtures: what it takes for containers are processes of this machine."""

from __future__ import annotations

import os
import signal
import sys
import uuid
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from pytest_celery import CeleryTestWorker, CeleryWorkerContainer, RedisContainer

from lanewise.ports import free_port
from lanewise.process import Process, ProcessSpec, wait_until
from shared.settings import Settings
from tests.fleet.fleet import ROOT, marked

AGENTS = "tests.agents"
READY_S = 60
END_S = 20
# Short, so that what a lease, a sweep or a grace decides is decided soon.
QUICK = {
    "LANEWISE_LEASE_S": "3",
    "LANEWISE_SWEEP_S": "0.5",
    "LANEWISE_CANCEL_GRACE_S": "0.5",
    "LANEWISE_DRAIN_S": "3",
}


class HandleOfNothing:
    """What pytest-docker-tools' wrapper asks of a container; also all that the test session's own Redis has to be."""

    def __init__(self) -> None:
        self.id = uuid.uuid4().hex
        self.name = f"process-{self.id[:12]}"
        self.status = "running"
        self.attrs: dict[str, Any] = {
            "Config": {"Hostname": "127.0.0.1", "Env": []},
            "NetworkSettings": {"Networks": {"host": {"IPAddress": "127.0.0.1"}}, "Ports": {}},
            "HostConfig": {"PortBindings": {}},
        }

    def reload(self) -> None:
        """Has `status` be true again."""

    def logs(self) -> bytes:
        """Returns everything that was written so far."""
        return b""


class WorkerProcess(HandleOfNothing):
    """`celery -A worker worker` as a process, with the container's interface.

    Args:
        folder: for its log; in `PYTHONPATH` it marks the worker and everything below it.
        command: its argv.
        env: settings.
    """

    def __init__(self, folder: Path, command: list[str], env: dict[str, str]) -> None:
        super().__init__()
        self.folder = folder
        path = os.pathsep.join((str(ROOT), str(folder)))
        self._spec = ProcessSpec(
            name="worker",
            argv=tuple(part.replace("%h", self.id[:12]) for part in command),
            env={**os.environ, **env, "PYTHONPATH": path, "LANEWISE_AGENTS": AGENTS},
            log=folder / "worker.log",
            cwd=ROOT,
        )
        self.process = Process(self._spec)

    def reload(self) -> None:
        self.status = "running" if self.process.exit_code is None else "exited"

    def logs(self) -> bytes:
        return self._spec.log.read_bytes()

    def kill(self, signal: str | int | None = None) -> None:
        """Signals the worker's main process, as a container engine does."""
        self.process.signal(_signal(signal or "SIGKILL"))

    def revive(self) -> None:
        """Starts it again if it has ended, with a new log; whatever it had started has to be gone by then."""
        if self.process.exit_code is not None:
            self.demand_nothing_left()
            self._spec.log.unlink()
            self.process = Process(self._spec)

    def end(self) -> None:
        """Kills it; nothing of it may be left."""
        self.process.kill()
        self.demand_nothing_left()

    def demand_nothing_left(self) -> None:
        """Fails if something that it started is still there, and ends that."""
        self.process.kill_group(0)
        left = [] if wait_until(lambda: not marked(self.folder), 5) else marked(self.folder)
        for process in left:
            process.kill()
        assert not left, f"a worker has left behind: {left}"

    def restart(self, timeout: float = END_S) -> None:
        """Ends it in order and starts it again."""
        self.process.signal(signal.SIGTERM)
        self.process.wait(timeout)
        self.process = Process(self._spec)

    def exec_run(self, *_: object, **__: object) -> tuple[int, bytes]:
        """Nothing can be run inside of a process."""
        return 126, b"a process is no container"


def _signal(given: str | int) -> signal.Signals:
    return signal.Signals[given] if isinstance(given, str) else signal.Signals(given)


class OurRedis(RedisContainer):  # type: ignore[misc]
    """The broker: the embedded Redis that the tests have started."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(HandleOfNothing())
        self._url = settings.effective_broker_url

    @property
    def celeryconfig(self) -> dict[str, Any]:
        return {"url": self._url, "host_url": self._url, "vhost": self._url.rsplit("/", 1)[1]}

    @property
    def ready_prompt(self) -> str | None:
        return None


class OurWorkerContainer(CeleryWorkerContainer):  # type: ignore[misc]
    """One worker of ours, over the stores of these settings."""

    def __init__(self, folder: Path, env: dict[str, str]) -> None:
        port = free_port()
        self.metrics_url = f"http://127.0.0.1:{port}/metrics"
        self.worker = WorkerProcess(folder, self.command(), env | {"LANEWISE_METRICS_PORT": str(port)})
        super().__init__(self.worker)

    @classmethod
    def command(cls, *args: str, **_: Any) -> list[str]:
        worker = ["worker", "-P", "threads", "-c", "4", "-n", f"{cls.worker_name()}@%h"]
        return [sys.executable, "-m", "celery", "-A", "worker", *worker, "--without-mingle", "--without-gossip", *args]

    @property
    def ready_prompt(self) -> str | None:
        return None  # our log is JSON, and says less; whoever needs it ready asks Celery: `Worker.ready`

    def teardown(self) -> None:
        """Leaves it to the next test."""


class Worker(CeleryTestWorker):  # type: ignore[misc]
    """A node of pytest-celery's, with what our tests ask about it."""

    @property
    def process(self) -> Process:
        """Its main process."""
        process: Process = self.container.worker.process
        return process

    @property
    def metrics_url(self) -> str:
        """Where it tells what it has counted."""
        url: str = self.container.metrics_url
        return url

    def ready(self) -> bool:
        """Waits until it answers a ping."""

        def answers() -> bool:
            assert self.process.exit_code is None, self.logs()
            inspect = self.app.control.inspect(destination=[self.hostname()], timeout=0.2)
            return bool(inspect.ping())

        return wait_until(answers, READY_S)

    @cached_property
    def zygote(self) -> psutil.Process:
        """Its zygote."""
        (keeper,) = [
            child for child in psutil.Process(self.process.pid).children() if "worker.keeper" in child.cmdline()
        ]
        (zygote,) = keeper.children()
        return zygote

    def sandboxes(self) -> list[psutil.Process]:
        """The sandboxes that are alive, youngest last."""
        alive = [child for child in self.zygote.children() if child.status() != psutil.STATUS_ZOMBIE]
        return sorted(alive, key=lambda child: (child.create_time(), child.pid))

    def ends(self, within_s: float = END_S) -> int:
        """Waits for its end and returns its exit code."""
        assert self.process.wait(within_s), self.logs()
        assert self.process.exit_code is not None
        return self.process.exit_code
