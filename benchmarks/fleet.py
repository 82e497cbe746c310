"""A fleet of the benchmarks' own, what its processes cost, and the programs that put load on it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil
import sqlalchemy as sa

from lanewise import Client
from lanewise.ports import free_port
from lanewise.process import StartError, wait_until
from lanewise.secrets import load_secrets
from shared.settings import jwt_keys
from shared.tokens import make_token

ROOT = Path(__file__).parents[1]
START_S = 90.0
STOP_S = 40.0
LOAD_S = 90.0
EVENT_S = 60.0
KINDS = ("api", "worker", "zygote", "sandboxes", "postgres", "redis")


def child_environment(**values: str) -> dict[str, str]:
    """Returns our environment for a child that shall find the benchmarks."""
    return {**os.environ, "PYTHONPATH": str(ROOT), **values}


class LoggedEvent(NamedTuple):
    """An event as the log has it.

    Args:
        at: when, in seconds since 1970.
        data: what it says.
    """

    at: float
    data: dict[str, Any]


class Fleet:
    """`lanewise up` with one api, in a folder that vanishes with it.

    Args:
        slots: runs at once, per worker.
        workers: how many.
        limit: how many runs one user may have in progress; default: `slots`.
        env: further settings.
    """

    def __init__(
        self, slots: int, *, workers: int = 1, limit: int | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self._options = ("--slots", str(slots), "--workers", str(workers), "--no-flower")
        self._env = {
            "LANEWISE_AGENTS": "benchmarks.agents",
            "LANEWISE_USER_CONCURRENT_RUNS": str(slots if limit is None else limit),
            **(env or {}),
        }
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="lanewise-bench-")))
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        ready, said = self.folder / "ready", self.folder / "said"
        data = ("--data-dir", str(self.folder / "data"))
        with ready.open("wb") as stdout, said.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "lanewise.cli", "up", *data, "--port", str(free_port()), *self._options],
                stdout=stdout,
                stderr=stderr,
                cwd=ROOT,
                env=child_environment(**self._env),
            )
        self._stack.callback(self._stop)
        wait_until(lambda: bool(ready.read_text()) or self._process.poll() is not None, START_S)
        if not ready.read_text():
            raise StartError(f"the fleet did not start:\n{said.read_text()[-2000:]}")
        self.url = ready.read_text().split()[1]

    def _stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()  # its children end with it
            self._process.wait()

    def token(self, user_id: str) -> str:
        """Returns a bearer token."""
        return make_token(jwt_keys((self.secret_key,))[0], user_id)

    def client(self, user_id: str) -> Client:
        """Returns a client of the user's; it closes with the fleet."""
        return self._stack.enter_context(Client(self.url, self.token(user_id)))

    @cached_property
    def redis_url(self) -> str:
        """The URL of the fleet's Redis, for one who may do everything."""
        url = sa.make_url(self.environment["LANEWISE_REDIS_URL"])
        admin = url.set(username="admin", password=load_secrets(self.folder / "data").redis_password)
        return admin.render_as_string(hide_password=False)

    @cached_property
    def database_url(self) -> str:
        """The URL of the fleet's Postgres, as the service."""
        return self.environment["LANEWISE_DATABASE_URL"]

    @cached_property
    def secret_key(self) -> str:
        """What the fleet signs with."""
        return load_secrets(self.folder / "data").secret_key

    def rows(self, statement: str, **parameters: Any) -> Sequence[sa.Row[Any]]:
        """Executes a statement as the superuser, whom row level security does not bind, and commits it.

        Returns:
            the rows, if there are any.
        """
        with self._database.connect() as connection:
            answer = connection.execute(sa.text(statement), parameters)
            return answer.all() if answer.returns_rows else []

    def event(self, run_id: str, kind: str, attempt: int = 1) -> LoggedEvent:
        """Returns an event of a run's attempt, waiting for it.

        Raises:
            TimeoutError: it did not come within a minute.
        """
        query = """
            SELECT extract(epoch FROM at) AS at, data FROM lanewise.run_events
            WHERE run_id = :run_id AND type = :kind AND attempt = :attempt
        """
        found: Sequence[sa.Row[Any]] = ()

        def look() -> bool:
            nonlocal found
            found = self.rows(query, run_id=run_id, kind=kind, attempt=attempt)
            return bool(found)

        if not wait_until(look, EVENT_S):
            raise TimeoutError(f"no {kind} of attempt {attempt} came")
        return LoggedEvent(float(found[0].at), found[0].data)

    @cached_property
    def _database(self) -> sa.Engine:
        url = sa.make_url(self.database_url)
        password = load_secrets(self.folder / "data").postgres_password
        admin = url.set(drivername="postgresql+psycopg2", username="postgres", password=password)
        engine = sa.create_engine(admin, isolation_level="AUTOCOMMIT")
        self._stack.callback(engine.dispose)
        return engine

    @cached_property
    def environment(self) -> dict[str, str]:
        """What its worker was given."""
        return next(process for process, kind in self._processes() if kind == "worker").environ()

    def cpu_s(self) -> dict[str, float]:
        """Returns the processor time so far by kind of process, ended children included."""
        used: dict[str, float] = defaultdict(float)
        for process, kind in self._processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            used[kind] += times.user + times.system
            used["sandboxes" if kind == "zygote" else kind] += times.children_user + times.children_system
        return used

    def pss_mib(self) -> dict[str, float]:
        """Returns the memory by kind of process, shared pages divided among those who share them."""
        used: dict[str, float] = defaultdict(float)
        for process, kind in self._processes():
            used[kind] += pss_mib(process.pid)
        return used

    def _processes(self) -> list[tuple[psutil.Process, str]]:
        found = []
        for process in psutil.Process(self._process.pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # ended meanwhile; what it used is its parent's then
                found.append((process, _kind(process)))
        return found


def _kind(process: psutil.Process) -> str:
    command = " ".join(process.cmdline())
    if "worker.zygote" in command:  # a sandbox has the command line of the zygote that it was forked from
        parent = process.parent()
        return "sandboxes" if parent and "worker.zygote" in " ".join(parent.cmdline()) else "zygote"
    marks = {
        "worker.keeper": "zygote", "gunicorn": "api", "celery": "worker", "postgres": "postgres",
        "redis-server": "redis",
    }  # fmt: skip
    for mark, kind in marks.items():
        if mark in command:
            return kind
    return "other"


def pss_mib(pid: int) -> float:
    """Returns the proportional set size of a process."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024


def put_load(kind: str, env: dict[str, str] | None = None, **parameters: Any) -> dict[str, Any]:
    """Runs `benchmarks.load` in a process of its own and returns what it measured; see there.

    Raises:
        subprocess.SubprocessError: it failed, or was not done after 90 seconds.
    """
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.load", kind],
        input=json.dumps(parameters).encode(),
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env=env or child_environment(),
        timeout=LOAD_S,
        check=True,
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


class Lab:
    """What the benchmarks share: how thorough to be, and a fleet that is started when the first of them needs it.

    Args:
        quick: fewer repetitions.
    """

    SLOTS = 8

    def __init__(self, *, quick: bool) -> None:
        self.quick = quick
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @cached_property
    def fleet(self) -> Fleet:
        """The fleet."""
        return self._stack.enter_context(Fleet(self.SLOTS))

    def tokens(self, users: int) -> list[str]:
        """Returns the tokens of some users."""
        return [self.fleet.token(f"bench-{number}") for number in range(users)]
