"""A fleet started by `lanewise up`, as its users and its operator see it."""

from __future__ import annotations

import getpass
import os
import re
import sys
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psutil
import pytest
import redis
import sqlalchemy as sa

from lanewise import Client
from lanewise.embedded.binaries import postgres_bin, redis_program
from lanewise.process import Process, ProcessSpec, wait_until
from lanewise.secrets import Secrets, load_secrets
from shared.errors import ConfigurationError
from shared.services import Services
from shared.settings import Settings, load_settings
from shared.states import ENDS
from shared.tokens import make_token
from tests import plain
from tests.services import demand_no_refusal, missing, server_folder, superuser_engine

ROOT = Path(__file__).parents[2]
AGENTS = "tests.fleet.agents_acceptance,tests.agents_endless,tests.browser.agents,tests.chaos.callers"
# Short, so that what a lease, a sweep or a grace decides is decided soon.
QUICK = {
    "LANEWISE_LEASE_S": "3",
    "LANEWISE_SWEEP_S": "0.5",
    "LANEWISE_CANCEL_GRACE_S": "0.5",
    "LANEWISE_DRAIN_S": "5",
}
READY_S = 60
STOP_S = 40
WAIT_S = 20

T = TypeVar("T")
Run = dict[str, Any]
Event = dict[str, Any]


def until(found: Callable[[], T | None], timeout_s: float, what: object) -> T:
    """Returns the first answer of `found` that is true; fails after `timeout_s` seconds, naming `what` was awaited."""
    answer: T | None = None

    def look() -> bool:
        nonlocal answer
        answer = found()
        return bool(answer)

    assert wait_until(look, timeout_s), f"not within {timeout_s:g} s: {what() if callable(what) else what}"
    return answer  # type: ignore[return-value]


def new_user(name: str = "user") -> str:
    """Returns the id of a user who has nothing yet."""
    return f"{name}-{uuid.uuid4().hex[:12]}"


def marks() -> Path:
    """Returns where pytest makes the folders of tests: agents leave marks there of what they have done."""
    folder = Path(tempfile.gettempdir(), f"pytest-of-{getpass.getuser()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder


class Fleet:
    """One `lanewise up` with its data in a folder of its own.

    Args:
        folder: for everything that this fleet writes.
        options: of `lanewise up`.
        env: settings besides the quick ones.
    """

    def __init__(self, folder: Path, *options: str, env: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.scratch = folder / "tmp"
        self.scratch.mkdir()
        given = env or {}
        path = os.pathsep.join(filter(None, (given.get("PYTHONPATH"), str(ROOT), str(folder))))
        self._spec = ProcessSpec(
            name="up",
            argv=(sys.executable, "-m", "lanewise.cli", "up", "--data-dir", str(self.data_dir), *options),
            # The folder in PYTHONPATH marks every process of this fleet, down to the sandboxes.
            env={**os.environ, "LANEWISE_AGENTS": AGENTS, "LANEWISE_SANDBOX_WRITABLE": str(marks()),
                 **QUICK, **given, "PYTHONPATH": path,
                 "TMPDIR": str(self.scratch)},
            log=folder / "up.log",
            cwd=Path("/"),
        )  # fmt: skip
        self._lock = threading.Lock()
        self._up()

    def _up(self) -> None:
        self._stack = ExitStack()
        self._clients: dict[str, Client] = {}
        self._https: dict[str, httpx.Client] = {}
        self._process = Process(self._spec)
        self.url = until(self._ready_line, READY_S, self.said)

    @classmethod
    @contextmanager
    def start(cls, *options: str, env: dict[str, str] | None = None) -> Iterator[Fleet]:
        """Runs a fleet until the end of the block, then demands that it ends as it should and leaves nothing."""
        try:
            postgres_bin()
            redis_program()
        except ConfigurationError as error:
            missing(error)
        with ExitStack() as stack:
            folder = stack.enter_context(server_folder())
            stack.callback(kill_marked, folder)
            fleet = cls(folder, *options, env=env)
            stack.callback(fleet.close)
            yield fleet
            fleet.stop()

    def said(self) -> str:
        """What `up` has written so far."""
        return (self.folder / "up.log").read_text()

    def logs(self) -> dict[str, str]:
        """The logs of all processes, `up` itself included, by name."""
        files = [self.folder / "up.log", *(self.data_dir / "log").iterdir()]
        return {file.name: file.read_text(errors="replace") for file in files}

    def stop(self) -> None:
        """Asks the fleet to end and holds it to its promises: status 0, no process or file left, no right missing."""
        assert self._process.ending == "is running", self.said()
        if "redis" in self.processes():
            demand_no_refusal(self.admin_redis())
        self._close_clients()  # an api waits a while for idle connections
        self._process.signal(self._process.spec.stop_signal)
        assert self._process.wait(STOP_S), f"still running: {self.said()}"
        assert self._process.ending == "ended with code 0", self.said()
        assert wait_until(lambda: not marked(self.folder), 5), marked(self.folder)
        assert not list(self.scratch.iterdir())

    def stop_and_start(self) -> None:
        """Ends the fleet as `stop` does, and starts it again over the same data."""
        self.stop()
        self.close()
        for known in ("settings", "services"):
            self.__dict__.pop(known, None)
        self._spec.log.unlink()
        self._up()

    def close(self) -> None:
        """Closes what the test has open, and reaps `up` if it was killed."""
        self._close_clients()
        self._stack.close()
        self._process.kill()

    # What a user has.

    def token(self, user: str, *scopes: str) -> str:
        """Returns a bearer token."""
        return make_token(self.settings.jwt_keys[0], user, scopes=scopes or ("runs",))

    def http(self, user: str) -> httpx.Client:
        """Returns the user's plain HTTP client; it closes with the fleet."""
        with self._lock:
            if user not in self._https:
                headers = {"Authorization": f"Bearer {self.token(user)}"}
                self._https[user] = plain.client(base_url=self.url, headers=headers, timeout=30)
            return self._https[user]

    def client(self, user: str) -> Client:
        """Returns the user's Lanewise client; it closes with the fleet."""
        with self._lock:
            if user not in self._clients:
                self._clients[user] = Client(self.url, self.token(user))
            return self._clients[user]

    @property
    def stream_url(self) -> str:
        """Of the WebSocket."""
        return self.url.replace("http", "ws", 1) + "/v1/stream"

    def submit(self, user: str, agent: str, /, _input: Any = None, **fields: Any) -> Run:
        """Submits by plain HTTP, again while that is 503, as every client does; returns the accepted run."""
        body = {"agent": agent, "input": {} if _input is None else _input, **fields}

        def ask() -> httpx.Response | None:
            answer = self.http(user).post("/v1/runs", json=body)
            return None if answer.status_code == httpx.codes.SERVICE_UNAVAILABLE else answer

        answer = until(ask, WAIT_S, "a submission")
        assert answer.status_code == 202, answer.text
        assert answer.headers["Location"] == f"/v1/runs/{answer.json()['id']}"
        return dict(answer.json())

    def run(self, user: str, run_id: str) -> Run:
        """Returns the run as it is now."""
        answer = self.http(user).get(f"/v1/runs/{run_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, user: str, run_id: str, status: str | None = "completed", timeout_s: float = WAIT_S) -> Run:
        """Returns the run once it has ended, with `status` unless that is None."""
        run = self.client(user).wait(run_id, timeout_s)
        assert run["status"] in ENDS if status is None else run["status"] == status, run
        return run

    def events(self, user: str, run_id: str) -> list[Event]:
        """Returns the run's events so far."""
        return list(self.client(user).events(run_id))

    def event(self, user: str, run_id: str, kind: str, timeout_s: float = WAIT_S) -> Event:
        """Returns the run's first event of a type, waiting for it."""

        def look() -> Event | None:
            return next((event for event in self.events(user, run_id) if event["type"] == kind), None)

        return until(look, timeout_s, lambda: f"{kind} among {self.events(user, run_id)}")

    def pid(self, user: str, run_id: str) -> int:
        """Returns the pid of the sandbox of a run whose agent says it in its first thought."""
        return int(self.event(user, run_id, "agent_thinking")["data"]["text"].removeprefix("pid "))

    # What the operator has.

    @cached_property
    def secrets(self) -> Secrets:
        """Of the data folder."""
        return load_secrets(self.data_dir)

    @cached_property
    def settings(self) -> Settings:
        """Those of the fleet's processes."""
        environ = self.process("api").environ()
        names = ("secret_key", "database_url", "run_database_url", "redis_url", "broker_url", "deployment", "lease_s")
        values = {name: environ.get(f"LANEWISE_{name.upper()}") for name in names}
        return load_settings({}, **{name: value for name, value in values.items() if value is not None})

    @cached_property
    def services(self) -> Services:
        """A way to the fleet's stores, the same that its processes have."""
        services = Services.open(self.settings)
        self._stack.callback(services.close)
        return services

    def superuser(self) -> sa.Engine:
        """Returns a way to the database which row level security does not bind; each statement commits."""
        url = sa.make_url(self.settings.database_url.get_secret_value())
        admin = url.set(username="postgres", password=self.secrets.postgres_password)
        return superuser_engine(admin.render_as_string(hide_password=False))

    def admin_redis(self, database: int = 0) -> redis.Redis:
        """Returns a way to Redis as one who may do everything."""
        url = sa.make_url(self.settings.redis_url.get_secret_value())
        admin = url.set(username="admin", password=self.secrets.redis_password, database=str(database))
        client = redis.Redis.from_url(
            admin.render_as_string(hide_password=False),
            decode_responses=True,
            encoding_errors="replace",
            socket_timeout=30,
        )
        self._stack.callback(client.close)
        return client

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Returns the running processes by what they are; `sandbox` and `api.worker` are forked from others."""
        kinds = {
            "postgres": r"/postgres -D", "redis": r"redis-server", "flower": r"celery .* flower", "api": r"gunicorn",
            "worker": r"celery .* worker -P", "keeper": r"worker\.keeper",
            "zygote": r"worker\.zygote",
        }  # fmt: skip
        forked = {"api": "api.worker", "zygote": "sandbox"}
        found: dict[str, list[psutil.Process]] = {}
        for process in psutil.Process(self._process.pid).children(recursive=True):
            try:
                line, parent_line = " ".join(process.cmdline()), " ".join(psutil.Process(process.ppid()).cmdline())
            except psutil.NoSuchProcess:
                continue
            kind = next((kind for kind, pattern in kinds.items() if re.search(pattern, line)), "other")
            found.setdefault(forked.get(kind, kind) if line == parent_line else kind, []).append(process)
        return found

    def process(self, kind: str) -> psutil.Process:
        """Returns the one process of a kind, waiting until there is one."""
        return until(lambda: self.processes().get(kind), READY_S, f"a process: {kind}")[0]

    def kill(self, kind: str) -> psutil.Process:
        """Sends SIGKILL to the one process of a kind and returns it, gone."""
        process = self.process(kind)
        process.kill()
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 5, process)
        return process

    def readiness(self) -> dict[str, Any]:
        """Returns the answer of `/readyz`; empty if there is none."""
        try:
            return dict(plain.get(f"{self.url}/readyz", timeout=5).json())
        except httpx.HTTPError:
            return {}

    def await_ready(self) -> None:
        """Waits until everything works again."""
        until(lambda: self.readiness().get("status") == "ok", READY_S, self.readiness)

    def _close_clients(self) -> None:
        for client in self._clients.values():
            client.close()
        for http in self._https.values():
            http.close()

    def _ready_line(self) -> str | None:
        assert self._process.exit_code is None, self.said()
        found = re.search(r"^ready (http://\S+)$", self.said(), re.MULTILINE)
        return found[1] if found else None


def marked(folder: Path) -> list[psutil.Process]:
    """Returns all processes that a fleet in `folder` has started, whoever their parent is by now."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = str(folder) in " ".join((*process.cmdline(), process.cwd(), process.environ().get("PYTHONPATH", "")))
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill_marked(folder: Path) -> None:
    """Ends whatever a fleet in `folder` has left behind."""

    def none_left() -> bool:
        found = marked(folder)
        for process in found:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        return not found

    wait_until(none_left, 10)


@pytest.fixture(scope="session")
def fleet() -> Iterator[Fleet]:
    """The fleet that tests share: take users of your own."""
    with Fleet.start("--slots", "32") as running:
        yield running


@pytest.fixture
def user() -> str:
    """Somebody who has nothing yet."""
    return new_user()
