from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from shared.errors import ConfigurationError
from shared.settings import Settings, load_settings, next_redis_database
from worker.tools.web.door import Reach

KEY = "k" * 32
CANARY = "canary-5d1f0c"
MINIMAL = {"LANEWISE_DATABASE_URL": "postgresql://u:p@db/x", "LANEWISE_SECRET_KEY": KEY}


def load(monkeypatch: pytest.MonkeyPatch, **environ: str) -> Settings:
    for name, value in (MINIMAL | {f"LANEWISE_{key}": value for key, value in environ.items()}).items():
        monkeypatch.setenv(name, value)
    return load_settings()


def test_what_sandboxes_read_of_fetching_is_what_the_worker_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, FETCH_NETWORKS=" 10.1.2.3, fd00::1/8 ,", FETCH_PORTS="443, 8443")
    assert Reach.read() == Reach(tuple(ip_network(text, strict=False) for text in settings.fetch_networks),
                                 frozenset(settings.fetch_ports))  # fmt: skip
    for name in ("NETWORKS", "PORTS"):
        monkeypatch.delenv(f"LANEWISE_FETCH_{name}")
    assert Reach.read() == Reach((), frozenset(load(monkeypatch).fetch_ports))


def test_two_settings_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch)
    assert settings.secrets == (KEY,)
    assert (settings.user_concurrent_runs, settings.user_queued_runs) == (3, 10_000)
    assert (settings.lease_s, settings.drain_s, settings.cancel_grace_s, settings.run_time_limit_s) == (15, 30, 5, 3600)
    assert settings.queues == ("default",)


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(monkeypatch, QUEUES="a, b,,c ", SECRET_KEY=f"{KEY}1,{KEY}2", AGENTS="", SANDBOX_ENV="ONE")
    assert settings.queues == ("a", "b", "c")
    assert settings.secrets == (f"{KEY}1", f"{KEY}2")
    assert settings.agents == ()
    assert settings.sandbox_env == ("ONE",)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("LANEWISE_LEASE", "LANEWISE_LEASE_S"),
        ("LANEWISE_USER_CONCURENT_RUNS", "LANEWISE_USER_CONCURRENT_RUNS"),
        ("LANEWISE_SECRETKEY", "LANEWISE_SECRET_KEY"),
    ],
)
def test_an_unknown_name_stops_the_start_with_the_nearest(
    monkeypatch: pytest.MonkeyPatch, variable: str, hint: str
) -> None:
    monkeypatch.setenv(variable, CANARY)
    with pytest.raises(ConfigurationError, match=f"unknown setting {variable}; did you mean {hint}\\?") as caught:
        load(monkeypatch)
    assert CANARY not in str(caught.value)


def test_an_unknown_name_like_nothing_has_no_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigurationError, match=r"^unknown setting LANEWISE_ZZZZZ$"):
        load(monkeypatch, ZZZZZ="1")


def test_names_that_only_commands_read_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, URL="http://127.0.0.1:8000", TOKEN="t", OWNER_DATABASE_URL="postgresql://o:p@db/x")


def test_every_missing_setting_is_named() -> None:
    with pytest.raises(ConfigurationError, match="LANEWISE_DATABASE_URL") as caught:
        load_settings(environ={})
    assert "LANEWISE_SECRET_KEY" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TRUSTED_PROXIES", "10.0.0.0/8, proxy.example"),
        ("FETCH_NETWORKS", "10.0.0.0/8, wiki.example"),
        ("FETCH_PORTS", "80, http"),
        ("FETCH_PORTS", "65536"),
        ("FETCH_PORTS", ""),
        ("LEASE_S", "soon"),
        ("LEASE_S", "0"),
        ("LEASE_S", "nan"),
        ("DRAIN_S", "-1"),
        ("USER_CONCURRENT_RUNS", "0"),
        ("USER_CONCURRENT_RUNS", "2.5"),
        ("DEPLOYMENT", "Prod:1"),
        ("DEPLOYMENT", ""),
        ("METRICS_PORT", "70000"),
        ("LOG_LEVEL", "LOUD"),
        ("SECRET_KEY", "short"),
        ("SECRET_KEY", f"{KEY},short"),
        ("SECRET_KEY", " , "),
        ("JWT_SECRET", "short"),
        ("DATABASE_URL", "mysql://u:p@db/x"),
        ("DATABASE_URL", "nonsense"),
        ("RUN_DATABASE_URL", "postgresql//u:p@db/x"),
        ("REDIS_URL", "http://redis"),
        ("REDIS_URL", "redis://redis/first"),
        ("BROKER_URL", "amqp://redis"),
        ("BROKER_URL", "redis://p/w@redis/1"),
    ],
)
def test_a_malformed_value_stops_the_start_by_name(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=f"LANEWISE_{name}"):
        load(monkeypatch, **{name: value})


def test_secrets_show_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = f"{CANARY}{KEY}"
    settings = load(
        monkeypatch,
        DATABASE_URL=f"postgresql://u:{CANARY}@db/x",
        RUN_DATABASE_URL=f"postgresql://u:{CANARY}@db/x",
        REDIS_URL=f"redis://:{CANARY}@redis/0",
        BROKER_URL=f"redis://:{CANARY}@redis/1",
        SECRET_KEY=secret,
        JWT_SECRET=secret,
    )
    assert settings.secrets == settings.jwt_keys == (secret,)
    assert CANARY not in f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SECRET_KEY", CANARY),
        ("JWT_SECRET", CANARY),
        ("DATABASE_URL", f"postgresql//u:{CANARY}@db/x"),
        ("REDIS_URL", f"redis://:{CANARY}@redis/zero"),
        ("BROKER_URL", f"redis:// :{CANARY}@[redis/0"),
    ],
)
def test_errors_show_no_secret_either(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(monkeypatch, **{name: value})
    assert CANARY not in f"{caught.value!r} {caught.value.problem()}"
    # Nor in what a traceback would print: the cause that holds the input is cut off.
    assert caught.value.__suppress_context__
    assert caught.value.__cause__ is None


def test_settings_do_not_change(monkeypatch: pytest.MonkeyPatch) -> None:
    settings: Any = load(monkeypatch)
    with pytest.raises(ValueError, match="frozen"):
        settings.lease_s = 1


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("redis://redis", "redis://redis/1"),
        ("redis://redis/", "redis://redis/1"),
        ("redis://:p%40w@redis:6380/3", "redis://:p%40w@redis:6380/4"),
        ("rediss://redis/0?ssl_cert_reqs=required", "rediss://redis/1?ssl_cert_reqs=required"),
    ],
)
def test_the_broker_is_the_next_database_of_redis(monkeypatch: pytest.MonkeyPatch, url: str, broker: str) -> None:
    assert next_redis_database(url) == broker
    assert load(monkeypatch, REDIS_URL=url).effective_broker_url == broker
    assert load(monkeypatch, REDIS_URL=url, BROKER_URL="redis://other/7").effective_broker_url == "redis://other/7"


def test_token_keys_follow_the_secret_key_unless_given(monkeypatch: pytest.MonkeyPatch) -> None:
    derived = load(monkeypatch, SECRET_KEY=f"{KEY}1,{KEY}2").jwt_keys
    assert len(set(derived)) == 2
    assert not set(derived) & {f"{KEY}1", f"{KEY}2"}
    assert load(monkeypatch, JWT_SECRET=f"{KEY}3").jwt_keys == (f"{KEY}3",)


def test_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load(monkeypatch, JWT_JWKS_FILE="/keys.json").jwt_jwks_file == Path("/keys.json")
