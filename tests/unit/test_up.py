from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lanewise import ports
from lanewise.embedded import EmbeddedRedis
from lanewise.fleet import KINDS
from lanewise.ports import LOOPBACK, free_port, listen, reserve
from lanewise.secrets import ensure_secrets
from lanewise.stores import Stores
from lanewise.up import UpOptions, _only_one, up
from shared.errors import ConfigurationError

DATABASE_URL = "postgres://admin:hush@db.example:6432/main?sslmode=require"
REDIS_URL = "rediss://:hush@cache.example:6380/3"
KEY = "k" * 32


@pytest.fixture
def taken() -> Iterator[socket.socket]:
    with socket.create_server((LOOPBACK, free_port())) as listener:
        yield listener


def port_of(listener: socket.socket) -> int:
    return int(listener.getsockname()[1])


def test_an_asked_port_that_is_taken_is_named(taken: socket.socket, tmp_path: Path) -> None:
    number = port_of(taken)
    with pytest.raises(ConfigurationError, match=f"port {number} on 127.0.0.1 cannot be used: Address already in use"):
        up(UpOptions(port=number, data_dir=tmp_path))
    with pytest.raises(ConfigurationError, match=f"port {number} on 127.0.0.1 is taken"):
        up(UpOptions(port=free_port(), flower_port=number, data_dir=tmp_path))
    assert not (tmp_path / "postgres").exists()


def test_ports_move_on_by_themselves_to_where_all_fit(taken: socket.socket) -> None:
    # The second of two would be taken: both move.
    first = port_of(taken) - 1
    listeners = listen(LOOPBACK, None, first, 2)
    try:
        numbers = [port_of(listener) for listener in listeners]
        assert numbers[0] > port_of(taken)
        assert numbers[1] == numbers[0] + 1
    finally:
        for listener in listeners:
            listener.close()


def test_a_reserved_port_is_left_alone_before_its_owner_opens_it() -> None:
    default = free_port()
    first, mark = reserve(None, default)
    with mark:
        assert first == default
        second, other = reserve(None, default)
        other.close()
        assert second > first
        with pytest.raises(ConfigurationError, match=f"port {first} on 127.0.0.1 is taken"):
            reserve(first, default)
    third, mark = reserve(first, default)
    mark.close()
    assert third == first


def test_says_when_there_is_no_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "TRIES", 0)
    with pytest.raises(ConfigurationError, match=r"no free port on 127\.0\.0\.1 between 20000 and 32767"):
        free_port()


def test_one_folder_one_fleet(tmp_path: Path) -> None:
    with _only_one(tmp_path), pytest.raises(ConfigurationError, match=r"\(process \d+\) already runs in"):
        up(UpOptions(data_dir=tmp_path))
    with _only_one(tmp_path):
        pass


def test_a_module_that_hides_ours_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "worker.py").touch()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigurationError, match=r"worker\.py hides Lanewise's own 'worker'"):
        up(UpOptions(data_dir=tmp_path / "data"))
    assert not (tmp_path / "data").exists()


def test_a_misspelt_setting_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEWISE_DRAIN", "3")
    with pytest.raises(ConfigurationError, match="unknown setting LANEWISE_DRAIN; did you mean LANEWISE_DRAIN_S"):
        up(UpOptions(data_dir=tmp_path))
    assert not (tmp_path / "postgres").exists()


def test_a_given_database_needs_a_given_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="LANEWISE_SECRET_KEY must be in the environment"):
        up(UpOptions(data_dir=tmp_path, database_url=DATABASE_URL, redis_url=REDIS_URL))


def test_given_stores_get_the_same_roles_on_every_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANEWISE_SECRET_KEY", f"{KEY}, {'old' * 11}")
    here, there = (
        Stores(tmp_path / name, ensure_secrets(tmp_path / name), DATABASE_URL, REDIS_URL) for name in ("here", "there")
    )
    closed = [stores.values.pop("sandbox_closed") for stores in (here, there)]
    assert closed == [str(tmp_path / name) for name in ("here", "there")]
    assert here.values == there.values
    service, run = here.values["database_url"], here.values["run_database_url"]
    assert service.startswith("postgresql://lanewise_service_")
    assert run.startswith("postgresql://lanewise_run_")
    assert service.endswith("@db.example:6432/main?sslmode=require")
    assert "hush" not in service + run
    assert service.split(":")[2] != run.split(":")[2]
    assert here.values["broker_url"] == "rediss://:hush@cache.example:6380/4"
    assert here.env("worker")["LANEWISE_RUN_DATABASE_URL"] == run


def test_each_kind_of_process_signs_in_to_redis_as_a_user_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANEWISE_DEPLOYMENT", "blue")
    secrets = ensure_secrets(tmp_path)
    stores = Stores(tmp_path, secrets, None, None)
    envs = {kind: stores.env(kind) for kind in KINDS}
    users = {kind: urlsplit(env["LANEWISE_REDIS_URL"]).username for kind, env in envs.items()}
    assert users == {"api": "api", "worker": "worker", "flower": "broker"}
    brokers = {urlsplit(env["LANEWISE_BROKER_URL"]) for env in envs.values()}
    assert {(url.username, url.path) for url in brokers} == {("broker", "/1")}
    assert secrets.redis_password not in str(envs)
    assert [server.deployment for server in stores._servers if isinstance(server, EmbeddedRedis)] == ["blue"]


def test_a_secret_of_the_environment_wins_over_the_folders_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = ensure_secrets(tmp_path)
    assert Stores(tmp_path, secrets, None, None).settings.secrets == (secrets.secret_key,)
    monkeypatch.setenv("LANEWISE_SECRET_KEY", KEY)
    assert Stores(tmp_path, secrets, None, None).settings.secrets == (KEY,)


def test_a_malformed_database_url_is_refused_without_showing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LANEWISE_SECRET_KEY", KEY)
    with pytest.raises(ConfigurationError, match="not of the form") as caught:
        Stores(tmp_path, ensure_secrets(tmp_path), "hush-no-url", REDIS_URL)
    assert "hush" not in str(caught.value)
