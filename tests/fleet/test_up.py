from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil
import pytest

from lanewise.embedded import EmbeddedPostgres, EmbeddedRedis
from lanewise.process import wait_until
from tests import plain
from tests.accounts import as_nobody

READY_S = 60
STOP_S = 45


class Up:
    """A `lanewise up` of the test's own; `kill` ends it and, on Linux, all its processes."""

    def __init__(self, data_dir: Path, *options: str, prefix: tuple[str, ...] = (), **env: str) -> None:
        self.data_dir = data_dir
        self.output = Path(tempfile.mkstemp(suffix=".out")[1])
        self.errors = Path(tempfile.mkstemp(suffix=".err")[1])
        argv = (*prefix, sys.executable, "-m", "lanewise.cli", "up", "--data-dir", str(data_dir), *options)
        with self.output.open("wb") as stdout, self.errors.open("wb") as stderr:
            self.popen = subprocess.Popen(argv, stdout=stdout, stderr=stderr, cwd="/", env={**os.environ, **env})

    @property
    def said(self) -> str:
        """What it has written to stderr so far."""
        return self.errors.read_text()

    @property
    def url(self) -> str:
        """Where the first api is, once the fleet is ready."""
        assert wait_until(lambda: bool(self.output.read_text()) or self.popen.poll() is not None, READY_S), self.said
        (line,) = self.output.read_text().splitlines()
        assert line.startswith("ready http://127.0.0.1:"), self.said
        return line.removeprefix("ready ")

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.popen.pid).children(recursive=True)

    def get(self, path: str, url: str = "") -> httpx.Response:
        url = url or self.url
        found = re.search(r"^Token +alice (\S+)$", self.said, re.MULTILINE)
        assert found, self.said
        return plain.get(url + path, headers={"Authorization": f"Bearer {found[1]}"}, timeout=10)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(STOP_S)

    def kill(self) -> None:
        family = self.family() if self.popen.poll() is None else []
        self.popen.kill()
        self.popen.wait()
        assert wait_until(lambda: gone(family), 15), [process for process in family if process.is_running()]
        self.output.unlink(missing_ok=True)
        self.errors.unlink(missing_ok=True)


def gone(processes: list[psutil.Process]) -> bool:
    def ended(process: psutil.Process) -> bool:
        try:
            return process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return all(ended(process) for process in processes)


def names(family: list[psutil.Process]) -> str:
    return "\n".join(" ".join(process.cmdline()) for process in family)


@contextmanager
def starting() -> Iterator[Callable[..., Up]]:
    """Yields what starts `lanewise up`; whatever still runs at the end is killed."""
    started: list[Up] = []

    def starter(*arguments: str | Path, **options: str | tuple[str, ...]) -> Up:
        started.append(Up(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    try:
        yield starter
    finally:
        for up in started:
            up.kill()


Start = Callable[..., Up]


@pytest.fixture
def start() -> Iterator[Start]:
    with starting() as starter:
        yield starter


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Up, Up]]:
    """Two side by side: one in a closed folder, and one of an ordinary user where we are root."""
    closed = tmp_path_factory.mktemp("up") / "data"
    closed.mkdir(mode=0o700)
    (closed / "mine").write_text("mine")
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    prefix: tuple[str, ...] = ()
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "nobody")
            prefix = as_nobody()
        with starting() as start:
            yield start(closed, "--apis", "2"), start(folder / "data", "--no-flower", prefix=prefix, HOME=str(folder))
    finally:
        shutil.rmtree(folder)


def test_comes_up_in_a_closed_folder_and_says_where_things_are(pair: tuple[Up, Up]) -> None:
    up, _ = pair
    assert plain.get(f"{up.url}/readyz", timeout=10).json()["status"] == "ok"
    assert "data" in {agent["name"] for agent in up.get("/v1/agents").json()["items"]}
    for title in ("Console", "Flower", "Metrics", "Logs", "Token     bob", "Token     admin"):
        assert f"\n{title}" in up.said
    assert "celery -A worker worker -P threads" in names(up.family())
    assert (up.data_dir / "mine").read_text() == "mine"


def test_a_second_one_in_the_same_folder_is_refused(pair: tuple[Up, Up], start: Start) -> None:
    second = start(pair[0].data_dir)
    assert second.popen.wait(STOP_S) != 0
    assert "already runs in" in second.said
    assert "Traceback" not in second.said


def test_two_side_by_side_share_nothing(pair: tuple[Up, Up]) -> None:
    one, two = pair
    consoles = [re.findall(r"Console +(\S+)/ ", up.said) for up in pair if up.url]
    assert [len(urls) for urls in consoles] == [2, 1]
    assert len({*consoles[0], *consoles[1]}) == 3
    assert all(one.get("/v1/me", url).status_code == 200 for url in consoles[0])
    assert two.get("/v1/me").status_code == 200
    assert one.get("/v1/me", two.url).status_code == 401


@pytest.mark.skipif(os.geteuid() != 0, reason="all of it is an ordinary user's")
def test_an_ordinary_users_processes_are_that_users(pair: tuple[Up, Up]) -> None:
    assert pair[1].url
    assert {process.username() for process in pair[1].family()} == {"nobody"}


# The last that needs the pair: it ends both.
def test_a_killed_one_leaves_nothing_and_starts_again_and_both_drain(pair: tuple[Up, Up], start: Start) -> None:
    one, two = pair
    assert all(up.url for up in pair)
    family = one.family()
    assert len(family) > 8
    one.popen.kill()
    one.popen.wait()
    if sys.platform == "linux":
        assert wait_until(lambda: gone(family), 15), names([process for process in family if not gone([process])])
    again = start(one.data_dir, "--no-flower")
    assert again.get("/v1/me").status_code == 200
    assert two.get("/v1/me").status_code == 200
    for up, number in ((again, signal.SIGINT), (two, signal.SIGTERM)):
        family = up.family()
        assert up.stop(number) == 0
        assert gone(family)
        assert not (up.data_dir / "running.json").exists()
    assert (again.data_dir / "mine").read_text() == "mine"


def test_over_given_urls_nothing_is_embedded(start: Start, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres, EmbeddedRedis(tmp_path) as redis:
        options = ("--database-url", postgres.admin_url, "--redis-url", redis.admin_url, "--no-flower")
        up = start(tmp_path / "data", *options, LANEWISE_SECRET_KEY="k" * 32)
        assert up.get("/v1/me").status_code == 200
        assert not re.search(r"postgres -D|redis-server", names(up.family()))
        for url in (postgres.admin_url, redis.admin_url):  # command lines are for everybody on the machine to read
            password = urlsplit(url).password
            assert password is not None
            assert password not in names([psutil.Process(up.popen.pid), *up.family()])
        if os.geteuid() == 0:  # else they are closed
            assert not any(postgres.admin_url in process.environ().values() for process in up.family())
        assert up.stop() == 0
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_signal_while_it_starts_ends_it_cleanly(start: Start, tmp_path: Path) -> None:
    up = start(tmp_path / "data", "--no-flower")
    assert wait_until((tmp_path / "data" / "log" / "api.1.log").exists, READY_S)
    family = up.family()
    assert up.stop() == 0
    assert up.output.read_text() == ""
    assert gone(family)
