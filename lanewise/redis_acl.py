"""Redis ACLs: a user for each of api, worker and broker, with the least that it needs; nobody else may do anything.

The embedded server is set up by these lines. docker-compose.yml and docs/operations.md hold the same ones, as a test
demands. Redis 6.2 must understand them, so a user has one set of keys, for reading and writing alike.
"""

from __future__ import annotations

from collections.abc import Mapping

USERS = ("api", "worker", "broker")
BROKER_DATABASE = 1  # kombu's channels carry its number

# The digest in a key, see `shared.redis.Keys`: of its length, so that no other key matches.
_USER = "{" + 32 * "?" + "}"
_CONNECT = "ping select info"  # `info` is for `lanewise doctor`
_SCRIPTS = "evalsha script|load time"  # what a script calls is checked like any call of the user's
_SLOTS = "scan pexpire zadd zcount zrangebyscore zrem zremrangebyscore zscore"

_COMMANDS = {
    "api": (_CONNECT, _SCRIPTS, _SLOTS, "get set del", "publish subscribe unsubscribe"),
    "worker": (_CONNECT, _SCRIPTS, "script|exists", _SLOTS, "get set unlink", "publish subscribe"),
    "broker": (
        _CONNECT,
        _SCRIPTS,
        "script|exists",
        "brpop llen lpush rpop rpush",  # queues
        "hdel hget hset zadd zrange zrem watch unwatch multi exec",  # messages that are not acknowledged
        "get set del",  # a lock
        "exists pexpire sadd smembers srem zrangebyscore",  # bindings
        "publish psubscribe punsubscribe unsubscribe",
    ),
}
_KEYS = {
    "api": (f"{_USER}:slots", "rates*", "ticket:*"),
    "worker": (
        f"{_USER}:slots",
        f"{_USER}:store:*",
        f"{_USER}:stored",
        "rates*",
    ),  # rates: it clears those of deleted users
    "broker": ("broker:*",),
}
_FANOUT = f"broker:/{BROKER_DATABASE}."
_CHANNELS = {
    "api": (f"{_USER}:events", "worker:*"),
    "worker": (f"{_USER}:events", "worker:*"),
    # Who subscribes to a pattern must be allowed this very pattern.
    "broker": (f"{_FANOUT}celery.pidbox", f"{_FANOUT}celeryev/*", f"{_FANOUT}celeryev/worker.*"),
}


def acl_lines(deployment: str, passwords: Mapping[str, str], version: tuple[int, ...]) -> list[str]:
    """Returns lines for redis.conf, or for a file of users.

    Args:
        deployment: see the setting.
        passwords: of all `USERS`, as rules: `>` and the password, or `#` and its SHA-256.
        version: of the server.
    """
    lines = ["user default reset resetchannels"]
    for user in USERS:
        rules = (
            *(f"~lw:{deployment}:{key}" for key in _KEYS[user]),
            *(f"&lw:{deployment}:{channel}" for channel in _CHANNELS[user]),
            *(f"+{command}" for command in (*" ".join(_COMMANDS[user]).split(), *_introduction(version))),
        )
        lines.append(f"user {user} reset resetchannels on {passwords[user]} {' '.join(rules)}")
    return lines


def _introduction(version: tuple[int, ...]) -> tuple[str, ...]:
    """Returns what clients do first, to say what they are. They can do without, but each refusal would be logged.

    A server refuses to start with names that it does not know; before 7.0 it takes all.
    """
    if version < (7, 0):
        return "client|setinfo", "client|maint_notifications"
    return ("client|setinfo",) if version >= (7, 2) else ()
