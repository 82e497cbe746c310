"""Breaks of what keeps replies apart: workers that interrupt a call when its run is to end, and keep the connection."""

from __future__ import annotations

import contextlib
import threading
from typing import Any

from tests.chaos.sabotage import Patch, put

CONTROLS = frozenset({"interrupted"})  # a connection that was interrupted is closed: no harm
_here = threading.local()


class InterruptedCall(Exception):  # noqa: N818 - as of a soft time limit
    pass


def is_to_be_interrupted() -> bool:
    """Whether this thread's run has been asked to end, and its call is the first since: once for each run."""
    live = getattr(_here, "live", None)
    if live is None or live.asked_to_end is None:
        return False
    _here.live = None
    return True


def know_the_run(module: Any) -> None:
    right = module.Supervisor.run

    def run(supervisor: Any, start: Any) -> Any:
        _here.live = supervisor._live
        try:
            return right(supervisor, start)
        finally:
            _here.live = None

    put(module.Supervisor, "run", run)


def interrupt_redis(module: Any) -> None:
    """Raises where a soft time limit may: when the command is sent and its reply is not read."""
    library = module.redis.Redis
    right = library._send_command_parse_response

    def send(client: Any, connection: Any, name: Any, *given: Any, **options: Any) -> Any:
        if is_to_be_interrupted():
            connection.send_command(*given, **options)
            raise InterruptedCall(name)
        return right(client, connection, name, *given, **options)

    put(library, "_send_command_parse_response", send)


def keep_the_connection(module: Any) -> None:
    interrupt_redis(module)
    put(module, "_closing_if_interrupted", lambda _connection: contextlib.nullcontext())


def keep_rows(module: Any) -> None:
    """psycopg2 cannot be interrupted there, so this does what a driver would do that can be: its reply is read next."""

    def execute(once: Any, statement: Any, parameters: Any) -> Any:
        text = module._stating_user(statement.text)
        with once._engine.connect() as connection, module._autocommit(connection):
            rows = list(connection.execute(text, {**parameters, **once._stated}))
            unread = connection.info.pop("unread", None)
            if is_to_be_interrupted():
                connection.info["unread"] = (text, rows)
                raise InterruptedCall
            if unread is None or unread[0] is not text:  # rows of another form would raise by themselves
                return rows
            connection.info["unread"] = (text, rows)
            return unread[1]

    put(module.Once, "execute", execute)


PATCHES: dict[str, dict[str, Patch]] = {
    "interrupted": {"worker.supervise": know_the_run, "shared.redis": interrupt_redis},
    "redis-kept": {"worker.supervise": know_the_run, "shared.redis": keep_the_connection},
    "postgres-kept": {"worker.supervise": know_the_run, "shared.database": keep_rows},
}
