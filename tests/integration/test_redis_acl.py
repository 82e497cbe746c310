"""What each user of the embedded Redis may not do. What they must be able to do, whole fleets do; see `Fleet.stop`."""

from __future__ import annotations

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
import yaml  # type: ignore[import-untyped]

from lanewise.embedded import EmbeddedRedis
from lanewise.embedded.binaries import redis_program, redis_version
from lanewise.ports import free_port
from lanewise.process import wait_until
from lanewise.redis_acl import USERS
from shared.redis import Keys, connect
from tests.services import server_folder

KEYS = Keys("default")
BROKER = "lw:default:broker:"
FANOUT = f"{BROKER}/1."
POWERS = """
    ACL LIST|ACL SETUSER default on nopass|BGREWRITEAOF|CLIENT KILL ID 1|CLIENT LIST|CLIENT PAUSE 0|CONFIG GET *
    CONFIG SET maxmemory 0|DEBUG SLEEP 0|DUMP {key}|EVAL return 0|FLUSHALL|FLUSHDB|KEYS *|LASTSAVE
    MIGRATE localhost 1 {key} 0 1|MODULE LIST|MONITOR|PUBSUB CHANNELS|RANDOMKEY|RENAME {key} {key}|REPLICAOF NO ONE
    SAVE|SCRIPT FLUSH|SCRIPT KILL|SHUTDOWN NOSAVE|SLOWLOG GET|SWAPDB 0 1|COMMAND|WAIT 0 0|EXPIRE {key} 1|TYPE {key}
"""
KINDS = {
    "slots": KEYS.slots("alice"),
    "store": KEYS.store("alice", "key"),
    "store named like slots": KEYS.store("alice", "{x}:slots"),
    "stored": KEYS.stored("alice"),
    "rates": f"{KEYS.rates}:v1:{KEYS.submissions('alice')}",
    "ticket": KEYS.ticket("id"),
    "queue": f"{BROKER}default",
    "unacknowledged": f"{BROKER}unacked",
    "queue of another deployment": "lw:other:broker:default",
    "slots of another deployment": Keys("other").slots("alice"),
    "anything": "celery",
}
OWN = {
    "api": {"slots", "rates", "ticket"},
    "worker": {"slots", "store", "store named like slots", "stored", "rates"},
    "broker": {"queue", "unacknowledged"},
}
CHANNELS = {
    "events": KEYS.events("alice"),
    "control": KEYS.control("worker-1"),
    "pidbox": f"{FANOUT}celery.pidbox",
    "task events": f"{FANOUT}celeryev/worker.heartbeat",
    "task events of another database": f"{BROKER}/0.celeryev/worker.heartbeat",
    "events of another deployment": Keys("other").events("alice"),
    "anything": "celery",
}
SENT = {"api": {"events", "control"}, "worker": {"events", "control"}, "broker": {"pidbox", "task events"}}
PATTERNS = {f"{FANOUT}celery.pidbox", f"{FANOUT}celeryev/*", f"{FANOUT}celeryev/worker.*"}
COMPOSE = Path(__file__).parents[2] / "docker-compose.yml"


@pytest.fixture(scope="module")
def server() -> Iterator[EmbeddedRedis]:
    """One of its own: what is refused here is in its log."""
    with server_folder() as folder, EmbeddedRedis(folder) as running:
        yield running


@pytest.fixture(scope="module")
def clients(server: EmbeddedRedis) -> Iterator[dict[str, redis.Redis]]:
    """A client of each user's, and of the admin's."""
    with ExitStack() as stack:
        urls = {"admin": server.admin_url, **{user: server.url(user) for user in USERS}}
        yield {user: stack.enter_context(closing(redis.Redis.from_url(url, protocol=2))) for user, url in urls.items()}


def may(client: redis.Redis, *command: str) -> bool:
    """Tells whether the client has the right to a command, whatever comes of it; on a connection of its own."""
    connection: Any = client.connection_pool.make_connection()
    try:
        connection.connect()
        connection.send_command(*command)
        connection.read_response()
    except redis.exceptions.NoPermissionError:
        return False
    except redis.ResponseError as error:
        if "DEBUG command not allowed" in str(error):  # to anybody, since 7.0
            return False
        if "unknown" in str(error):  # to this server
            raise
    finally:
        connection.disconnect()
    return True


def test_nobody_rules_redis_but_the_admin(clients: dict[str, redis.Redis]) -> None:
    commands = [command.strip() for command in POWERS.replace("\n", "|").split("|") if command.strip()]
    for user, command in itertools.product(USERS, commands):
        own = KINDS[min(OWN[user])]
        assert not may(clients[user], *command.format(key=own).split()), (user, command)
    assert all(
        may(clients["admin"], *command.split()) for command in ("CONFIG GET *", "ACL LIST", "KEYS *", "FLUSHALL")
    )


@pytest.mark.parametrize("user", USERS)
def test_everybody_has_keys_of_their_own_and_no_others(clients: dict[str, redis.Redis], user: str) -> None:
    for command in (("GET",), ("SET",), ("ZADD",)):
        rest = {"GET": (), "SET": ("value",), "ZADD": ("1", "member")}[command[0]]
        allowed = {kind for kind, key in KINDS.items() if may(clients[user], *command, key, *rest)}
        assert allowed == OWN[user]


@pytest.mark.parametrize("user", USERS)
def test_everybody_speaks_on_channels_of_their_own(clients: dict[str, redis.Redis], user: str) -> None:
    assert {kind for kind, name in CHANNELS.items() if may(clients[user], "PUBLISH", name, "x")} == SENT[user]


@pytest.mark.parametrize("user", ["api", "worker"])
def test_events_and_control_are_heard_by_name_only(clients: dict[str, redis.Redis], user: str) -> None:
    assert {kind for kind, name in CHANNELS.items() if may(clients[user], "SUBSCRIBE", name)} == SENT[user]
    assert not may(clients[user], "PSUBSCRIBE", "lw:default:worker:*")


def test_the_broker_listens_to_its_own_patterns(clients: dict[str, redis.Redis]) -> None:
    patterns = {
        *PATTERNS,
        KEYS.events("alice"),
        "*",
        "lw:default:*",
        f"{BROKER}*",
        f"{FANOUT}*",
        f"{BROKER}/0.celeryev/*",
    }
    assert {pattern for pattern in patterns if may(clients["broker"], "PSUBSCRIBE", pattern)} == PATTERNS
    assert not may(clients["broker"], "SUBSCRIBE", CHANNELS["pidbox"])


@pytest.mark.parametrize("user", USERS)
def test_a_script_may_do_no_more_than_its_caller(clients: dict[str, redis.Redis], user: str) -> None:
    clients["admin"].set("kept", "kept")
    for body in (
        "return redis.call('FLUSHALL')",
        "return redis.call('DEL', 'kept')",
        "redis.call('SET', KEYS[1], 'x')",
    ):
        script: Any = clients[user].script_load(body)
        with pytest.raises(redis.ResponseError, match=r"(?i)permission|can't (run|access)"):
            clients[user].evalsha(script, 1, "kept")
    assert clients["admin"].get("kept") == b"kept"


def test_without_a_password_nobody_is_anybody(server: EmbeddedRedis) -> None:
    url = f"127.0.0.1:{server.port}/0"
    for command in ("PING", "INFO", "GET lw:default:ticket:x", "ACL WHOAMI", "SUBSCRIBE celery"):
        with closing(connect(f"redis://{url}?protocol=2")) as client, pytest.raises(redis.AuthenticationError):
            client.execute_command(*command.split())  # type: ignore[no-untyped-call]
    for user in (*USERS, "admin", "default"):
        with closing(connect(f"redis://{user}:guess@{url}")) as client, pytest.raises(redis.AuthenticationError):
            client.ping()


def test_the_composed_redis_starts_with_its_users_and_shows_no_password(tmp_path: Path) -> None:
    """The very command of docker-compose.yml, but for the folder and the port, and what says that it is healthy."""
    service = yaml.safe_load(COMPOSE.read_text())["services"]["redis"]
    port, passwords = free_port(), {f"REDIS_{user.upper()}_PASSWORD": f"hush-{user}" for user in USERS}
    program = tmp_path / "redis-server"
    program.write_text(
        f'#!/bin/sh\nexec {redis_program()} "$@" --port {port} --bind 127.0.0.1 --logfile {tmp_path}/log\n'
    )
    program.chmod(0o755)
    shell, option, script = service["command"]
    script = script.replace("$$", "$").replace("dir /data", f"dir {tmp_path}")
    if (7, 0) <= redis_version(redis_program()) < (7, 2):  # the image has what this one does not know yet
        script = script.replace("+client|setinfo", "")
    env = {"PATH": f"{tmp_path}:{os.defpath}", **passwords}
    with subprocess.Popen([shell, option, script], env=env) as process:
        try:
            for user, password in zip(USERS, passwords.values(), strict=True):
                with closing(connect(f"redis://{user}:{password}@127.0.0.1:{port}/0")) as client:
                    assert wait_until(partial(answers, client), 10)
                    assert not may(client, "FLUSHALL")
            with closing(connect(f"redis://127.0.0.1:{port}/0")) as client, pytest.raises(redis.AuthenticationError):
                client.ping()
            (title,) = filter(None, psutil.Process(process.pid).cmdline())  # no shell is left: a signal reaches Redis
            assert title.endswith(f"-server 127.0.0.1:{port}")
            assert "hush" not in (tmp_path / "log").read_text()
        finally:
            process.terminate()
    assert process.returncode == 0
    check = service["healthcheck"]["test"][-1]
    assert "REDISCLI_AUTH=$$REDIS_API_PASSWORD redis-cli --user api ping" in check


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
