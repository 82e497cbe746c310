"""The api as a real process, clients of it, and what stands in for a worker: for tests of api, client and console."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from lanewise.ports import free_port
from shared import lanes, runs
from shared.catalogue import announce
from shared.context import UserExecutionContext
from shared.event_types import EventType
from shared.events import Event, append
from shared.messages import RunMessage
from shared.models import Run
from shared.outcomes import Completed, Outcome
from shared.services import Services
from shared.settings import Settings
from shared.slots import member
from tests import plain

ECHO: dict[str, Any] = {
    "name": "echo",
    "description": "Says what it is told.",
    "input_schema": {
        "type": "object",
        "properties": {"text": {"type": "string"}, "times": {"type": "integer", "minimum": 1}},
        "required": ["text"],
        "additionalProperties": False,
    },
    "queue": "default",
    "time_limit_s": 60.0,
    "max_attempts": 3,
}


def announce_worker(services: Services, *agents: dict[str, Any], worker_id: str = "worker-1") -> str:
    """Makes a live worker known that has the agents, `echo` unless others are given."""
    with services.database.system_session() as session:
        worker = {"id": worker_id, "name": worker_id, "queues": ["default"], "slots": 8}
        announce(session, worker, agents or (ECHO,))
    return worker_id


class FakeWorker:
    """Does to stored runs what a worker does, without running anything."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self.id = announce_worker(services)

    def start(self, user_id: str, run_id: str) -> Run:
        """Grants (unless that was done) and claims."""
        with self.services.database.user_session(user_id) as session:
            run = runs.find(session, user_id, run_id)
            assert run is not None
            granted = lanes.grant(session, user_id, [member(run_id, run.attempt + 1)])
            message = granted[0][0] if granted else _message(run)
            claimed = runs.claim(session, message, self.id, ["echo"])
        assert claimed is not None
        self.services.publish(claimed[1])
        return claimed[0]

    def say(self, run: Run, *notes: str, publish: bool = True) -> None:
        """Commits an event for each note, and publishes them unless told otherwise."""
        events = [
            Event(run.user_id, run.id, run.attempt, EventType.AGENT_THINKING, run.agent, {"text": note})
            for note in notes
        ]
        with self.services.database.user_session(run.user_id) as session:
            stored, _ = append(session, events)
        assert len(stored) == len(notes)
        if publish:
            self.services.publish(stored)

    def finish(self, run: Run, outcome: Outcome | None = None, *, publish: bool = True) -> None:
        """Ends the attempt."""
        with self.services.database.user_session(run.user_id) as session:
            stored = runs.finish(session, run, outcome or Completed({"said": "done"}), f"worker:{self.id}")
        assert stored is not None
        if publish:
            self.services.publish(stored)


def _message(run: Run) -> RunMessage:
    return RunMessage(UserExecutionContext.from_dict(run.context), run.attempt)


class Server:
    """A real api process.

    Args:
        url: where it listens.
        process: gunicorn's main process.
        token: makes tokens for it.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path, token: Callable[..., str]) -> None:
        self.url = url
        self.process = process
        self.log = log
        self.token = token

    def client(self, user_id: str = "alice", **options: Any) -> httpx.Client:
        """Returns an HTTP client of a user's."""
        headers = {"Authorization": f"Bearer {self.token(user_id)}", **options.pop("headers", {})}
        return plain.client(base_url=self.url, headers=headers, timeout=30, **options)

    @contextmanager
    def socket(self, user_id: str | None = "alice", query: str = "", **options: Any) -> Iterator[ClientConnection]:
        """Opens a WebSocket, with a bearer token unless the user is None."""
        headers = {"Authorization": f"Bearer {self.token(user_id)}"} if user_id is not None else {}
        headers |= options.pop("additional_headers", {})
        with connect(
            self.url.replace("http", "ws", 1) + f"/v1/stream{query}",
            additional_headers=headers,
            compression=None,
            open_timeout=10,
            close_timeout=3,
            **options,
        ) as socket:
            yield socket

    def submit(self, user_id: str, **body: Any) -> str:
        """Submits a run of `echo` by REST; returns its id."""
        with self.client(user_id) as client:
            answer = client.post("/v1/runs", json={"agent": "echo", "input": {"text": "hello"}, **body})
        assert answer.status_code == httpx.codes.ACCEPTED, answer.text
        return str(answer.json()["id"])

    @contextmanager
    def stream(self, user_id: str = "alice", after: int | None = 0) -> Iterator[Stream]:
        """Opens a WebSocket and says hello."""
        with self.socket(user_id) as socket:
            yield Stream(socket, after)


class Stream:
    """A client that keeps to the published rule and remembers what it saw.

    Args:
        socket: opened, hello not yet said.
        after: for the hello.
    """

    def __init__(self, socket: ClientConnection, after: int | None = 0) -> None:
        self.socket = socket
        self.events: list[dict[str, Any]] = []
        self.live_at: int | None = None
        self.send(t="hello", v=1, after=after)
        self.welcome = self.receive()
        assert self.welcome["t"] == "welcome", self.welcome

    def send(self, **frame: Any) -> None:
        self.socket.send(json.dumps(frame))

    def closed_with(self, timeout_s: float = 10) -> int:
        """Reads until the server closes; returns the close code."""
        return close_code(self.socket, timeout_s)

    def receive(self, timeout_s: float = 10) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(self.socket.recv(timeout=timeout_s))
        if frame["t"] == "event":
            self.events.append(frame)
        elif frame["t"] == "live":
            self.live_at = frame["seq"]
        return frame

    def until_live(self) -> Stream:
        while self.live_at is None:
            self.receive()
        return self

    def until_seq(self, seq: int, timeout_s: float = 15) -> Stream:
        """Reads until the event with this number has come."""
        deadline = time.monotonic() + timeout_s
        while not self.events or self.events[-1]["seq"] < seq:
            assert time.monotonic() < deadline, f"no event {seq}; saw {[event['seq'] for event in self.events]}"
            self.receive(max(0.1, deadline - time.monotonic()))
        return self

    def answer(self, ref: str) -> dict[str, Any]:
        """Reads until the answer to a request has come."""
        while True:
            frame = self.receive()
            if frame.get("ref") == ref:
                return frame

    @property
    def numbers(self) -> list[int]:
        return [event["seq"] for event in self.events]


def close_code(connection: ClientConnection, timeout_s: float = 10) -> int:
    """Reads until the server closes; returns the close code."""
    with pytest.raises(ConnectionClosed) as caught:
        while True:
            connection.recv(timeout=timeout_s)
    assert caught.value.rcvd is not None, "cut without a close frame"
    return caught.value.rcvd.code


def metric(server: Server, name: str) -> float:
    """Returns the sum of the metrics whose lines begin with the name."""
    lines = plain.get(f"{server.url}/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@contextmanager
def run_server(
    settings: Settings, token: Callable[..., str], log: Path, *, app: str | None = None, **env: str
) -> Iterator[Server]:
    """Runs gunicorn on a free port until the end of the block; with another app if one is named."""
    port = free_port()
    assert settings.run_database_url is not None
    variables = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "RUN_DATABASE_URL": settings.run_database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "BROKER_URL": settings.effective_broker_url,
        "SECRET_KEY": ",".join(settings.secrets),
        "DEPLOYMENT": settings.deployment,
        "LEASE_S": str(settings.lease_s),
        "DRAIN_S": "5",
        **env,
    }
    argv = [sys.executable, "-m", "gunicorn", "-c", "python:api.gunicorn_conf", "--bind", f"127.0.0.1:{port}"]
    argv += [app] if app else []
    environ = {**os.environ, **{f"LANEWISE_{name}": value for name, value in variables.items()}}
    with log.open("ab") as output, subprocess.Popen(argv, env=environ, stdout=output, stderr=output) as process:
        try:
            _wait_until_up(f"http://127.0.0.1:{port}", process, log)
            yield Server(f"http://127.0.0.1:{port}", process, log, token)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if plain.get(f"{url}/healthz", timeout=2).status_code == httpx.codes.OK:
                return
        except httpx.TransportError:
            time.sleep(0.02)
    pytest.fail(f"the api did not start:\n{log.read_text()[-3000:]}")
