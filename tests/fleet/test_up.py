from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from lanewise.embedded import EmbeddedPostgres, EmbeddedRedis
from lanewise.process import wait_until
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
        return httpx.get(url + path, headers={"Authorization": f"Bearer {found[1]}"}, timeout=10)

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


@pytest.fixture
def start() -> Iterator[Callable[..., Up]]:
    """Starts `lanewise up`; whatever still runs at the end is killed."""
    started: list[Up] = []

    def starter(*arguments: str | Path, **options: str | tuple[str, ...]) -> Up:
        started.append(Up(*arguments, **options))  # type: ignore[arg-type]
        return started[-1]

    yield starter
    for up in started:
        up.kill()


Start = Callable[..., Up]


def test_comes_up_in_a_closed_folder_says_where_things_are_and_drains(start: Start, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o700)
    (data_dir / "mine").write_text("mine")
    up = start(data_dir)
    assert httpx.get(f"{up.url}/readyz", timeout=10).json()["status"] == "ok"
    assert "data" in {agent["name"] for agent in up.get("/v1/agents").json()["items"]}
    for title in ("Console", "Flower", "Metrics", "Logs", "Token     bob", "Token     admin"):
        assert f"\n{title}" in up.said
    family = up.family()
    assert "celery -A worker worker -P threads" in names(family)
    second = start(data_dir)
    assert second.popen.wait(STOP_S) != 0
    assert "already runs in" in second.said
    assert "Traceback" not in second.said
    assert up.stop() == 0
    assert gone(family)
    assert (data_dir / "mine").read_text() == "mine"
    assert not (data_dir / "running.json").exists()


def test_two_side_by_side_and_a_killed_one_leaves_nothing_and_starts_again(start: Start, tmp_path: Path) -> None:
    one, two = start(tmp_path / "one", "--apis", "2", "--no-flower"), start(tmp_path / "two", "--no-flower")
    consoles = [re.findall(r"Console +(\S+)/ ", up.said) for up in (one, two) if up.url]
    assert [len(urls) for urls in consoles] == [2, 1]
    assert len({*consoles[0], *consoles[1]}) == 3
    assert all(one.get("/v1/me", url).status_code == 200 for url in consoles[0])
    assert one.get("/v1/me", two.url).status_code == 401
    family = one.family()
    assert len(family) > 8
    one.popen.kill()
    one.popen.wait()
    if sys.platform == "linux":
        assert wait_until(lambda: gone(family), 15), names([process for process in family if not gone([process])])
    again = start(tmp_path / "one", "--no-flower")
    assert again.get("/v1/me").status_code == 200
    assert two.get("/v1/me").status_code == 200
    assert again.stop(signal.SIGINT) == 0


def test_over_given_urls_nothing_is_embedded(start: Start, tmp_path: Path) -> None:
    with EmbeddedPostgres(tmp_path) as postgres, EmbeddedRedis(tmp_path) as redis:
        options = ("--database-url", postgres.admin_url, "--redis-url", redis.url, "--no-flower")
        up = start(tmp_path / "data", *options, LANEWISE_SECRET_KEY="k" * 32)
        assert up.get("/v1/me").status_code == 200
        assert not re.search(r"postgres -D|redis-server", names(up.family()))
        assert up.stop() == 0
    assert not (tmp_path / "data" / "postgres").exists()


def test_a_signal_while_it_starts_ends_it_cleanly(start: Start, tmp_path: Path) -> None:
    up = start(tmp_path / "data", "--no-flower")
    assert wait_until((tmp_path / "data" / "log" / "api.1.log").exists, READY_S)
    family = up.family()
    assert up.stop() == 0
    assert up.output.read_text() == ""
    assert gone(family)


@pytest.mark.skipif(os.geteuid() != 0, reason="the other tests run as an ordinary user")
def test_as_an_ordinary_user(start: Start) -> None:
    prefix = as_nobody()
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        shutil.chown(folder, "nobody")
        up = start(folder / "data", "--no-flower", prefix=prefix, HOME=str(folder))
        assert up.get("/v1/me").status_code == 200
        family = up.family()
        assert {process.username() for process in family} == {"nobody"}
        assert up.stop() == 0
        assert gone(family)
    finally:
        shutil.rmtree(folder)
