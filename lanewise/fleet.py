"""The processes of a fleet, started once the stores answer: apis, workers, Flower."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import platform
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lanewise.ports import LOOPBACK
from lanewise.process import ProcessSpec
from lanewise.supervisor import Supervisor

READY_TIMEOUT_S = 90.0
PROBE_TIMEOUT_S = 1.0
DRAIN_MARGIN_S = 10.0  # on top of DRAIN_S, for handing back and closing
FLOWER_USER = "lanewise"
KINDS = ("api", "worker", "flower")


@dataclass(frozen=True)
class Fleet:
    """What to start, and where.

    Args:
        host: where the apis listen.
        listeners: one listening socket for each api. They stay open here: while an api is started again, connections
            wait instead of failing, and nobody else can take the port.
        metrics_ports: one loopback port for each worker.
        flower_port: None: no Flower.
        flower_password: for the user `lanewise`.
        slots: runs at once, per worker.
        drain_s: see the setting.
        envs: the environments, by kind of process.
        logs: the folder of the logs.
    """

    host: str
    listeners: list[socket.socket]
    metrics_ports: list[int]
    flower_port: int | None
    flower_password: str = field(repr=False)
    slots: int
    drain_s: float
    envs: Mapping[str, Mapping[str, str]] = field(repr=False)
    logs: Path

    @property
    def ports(self) -> list[int]:
        """Those of the apis."""
        return [listener.getsockname()[1] for listener in self.listeners]

    @property
    def urls(self) -> list[str]:
        """Those of the apis."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return [f"http://{host}:{port}" for port in self.ports]

    def start(self, supervisor: Supervisor, stage: int) -> None:
        """Starts all; apis and workers stop in `stage`, Flower in the next."""
        for number, listener in enumerate(self.listeners, 1):
            supervisor.start(self._api(number, listener), stage=stage)
        for number, port in enumerate(self.metrics_ports, 1):
            supervisor.start(self._worker(number, port), stage=stage)
        if self.flower_port is not None:
            supervisor.start(self._flower(self.flower_port), stage=stage + 1)

    def wait_ready(self, supervisor: Supervisor) -> None:
        """Waits until every api says that it, the stores and a worker are ready.

        Raises:
            StartError: not in time, or a process keeps ending.
            StopRequested: a signal came first.
        """
        waiting = self.ports
        answer = ""

        def all_ready() -> bool:
            nonlocal answer
            while waiting:
                answer = _readiness(self.host, waiting[0])
                if answer != "ok":
                    return False
                waiting.pop(0)
            return True

        supervisor.wait(all_ready, READY_TIMEOUT_S, lambda: f"port {waiting[0]} answers {answer} (logs: {self.logs})")

    def _api(self, number: int, listener: socket.socket) -> ProcessSpec:
        bind = ("--bind", f"fd://{listener.fileno()}")
        return ProcessSpec(
            name=f"api.{number}",
            argv=(sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", *bind, "api.wsgi:app"),
            env=self.envs["api"],
            log=self.logs / f"api.{number}.log",
            pass_fds=(listener.fileno(),),
            hasten_signal=signal.SIGINT,  # gunicorn: without waiting for open requests
            stop_timeout_s=self.drain_s + DRAIN_MARGIN_S,
        )

    def _worker(self, number: int, metrics_port: int) -> ProcessSpec:
        # Fleets may share a broker and a machine, but not a port.
        name = f"worker{number}@{platform.node()}-{self.ports[0]}"
        pool = ("-P", "threads", "-c", str(self.slots))
        quiet = ("--without-mingle", "--without-gossip", "-l", "WARNING")
        return ProcessSpec(
            name=f"worker.{number}",
            argv=(sys.executable, "-m", "celery", "-A", "worker", "worker", *pool, "-n", name, *quiet),
            env={**self.envs["worker"], "LANEWISE_METRICS_PORT": str(metrics_port)},
            log=self.logs / f"worker.{number}.log",
            stop_timeout_s=self.drain_s + DRAIN_MARGIN_S,
        )

    def _flower(self, port: int) -> ProcessSpec:
        address = (f"--address={LOOPBACK}", f"--port={port}")
        return ProcessSpec(
            name="flower",
            argv=(sys.executable, "-m", "celery", "-A", "worker", "flower", *address),
            env={
                **self.envs["flower"],
                "FLOWER_BASIC_AUTH": f"{FLOWER_USER}:{self.flower_password}",
                "FLOWER_READ_ONLY": "true",
            },
            log=self.logs / "flower.log",
        )


def flower_installed() -> bool:
    """Tells whether the extra `flower` is there."""
    return importlib.util.find_spec("flower") is not None


def _readiness(host: str, port: int) -> str:
    """Returns the `status` of `/readyz`, or what came instead."""
    host = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - asked for by the user
    with contextlib.closing(http.client.HTTPConnection(host, port, timeout=PROBE_TIMEOUT_S)) as connection:
        try:
            connection.request("GET", "/readyz")
            body = connection.getresponse().read(65_536)
            answer = json.loads(body)
        except (OSError, http.client.HTTPException) as error:
            return type(error).__name__
        except ValueError:
            return body[:200].decode(errors="replace")
    if isinstance(answer, dict) and answer.get("status") == "ok":
        return "ok"
    return json.dumps(answer)
