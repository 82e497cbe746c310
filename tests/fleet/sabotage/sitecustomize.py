"""Breaks a fleet on purpose. With this folder in PYTHONPATH every Python process of the fleet imports it first.

Each break is in force while a file of its name is in the folder that the variable SABOTAGE names. What each one is for
says the table of `tests.fleet.leaks`.
"""

from __future__ import annotations

import asyncio
import json
import mmap
import os
import re
import select
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.sabotage import Saboteur

FILTER = re.compile(r"\b(\w+\.)*user_id = %\(\w+\)s")
WRITING = re.compile(r"\b(INSERT|UPDATE|DELETE)\b")
START_S = 5.0


def broken(name: str) -> bool:
    return Path(os.environ["SABOTAGE"], name).exists()


# The stores and what is between processes.


def share_the_store(module: Any) -> None:
    right = module.Keys.store
    module.Keys.store = lambda keys, user_id, key: right(keys, "everybody" if broken("store") else user_id, key)


def publish_to_everybody(module: Any) -> None:
    right = module.publish
    users: set[str] = set()

    def publish(client: Any, keys: Any, stored: Any) -> None:
        stored = list(stored)
        users.update(item.event.user_id for item in stored)
        if broken("channel"):
            for user_id in list(users):
                client.publish(keys.events(user_id), json.dumps([item.view() for item in stored]))
        else:
            right(client, keys, stored)

    module.publish = publish


def send_the_input_along(module: Any) -> None:
    """The name that a monitor shows for a message says what the run is about."""
    right = module.Dispatcher.send

    def send(dispatcher: Any, message: Any, queue: str) -> None:
        if broken("message"):
            from shared.models import Run  # noqa: PLC0415 - nothing is imported before the fleet does it

            context = message.context
            with dispatcher._database.user_session(context.user_id) as session:
                run = session.get_one(Run, (context.user_id, context.run_id))
            dispatcher._app.send_task("lanewise.input", args=[run.input], queue="nobody's")
        right(dispatcher, message, queue)

    module.Dispatcher.send = send


# The api.


def forget_filters() -> None:
    """No query of the api says any more whose rows it wants."""
    from sqlalchemy import event  # noqa: PLC0415 - nothing is imported before the fleet does it
    from sqlalchemy.engine import Engine  # noqa: PLC0415

    @event.listens_for(Engine, "before_cursor_execute", retval=True)
    def forget(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        if broken("filter") and not WRITING.search(statement):
            statement = FILTER.sub("true", statement)
        return statement, parameters


def is_list() -> bool:
    """Whether the present request asks for what each user has under the same path."""
    import flask  # noqa: PLC0415

    there = flask.has_request_context() and flask.request.method == "GET" and not flask.request.view_args
    return there and flask.request.path in {"/v1/runs", "/v1/documents", "/v1/threads"}


def keep_the_session_of_another() -> None:
    """A session that comes back from the pool still says whose it was."""
    import shared.database  # noqa: PLC0415

    database: Any = shared.database

    right = database._stated
    last: list[str] = []

    def stated(user_id: str, *rest: Any) -> Any:
        if user_id == database.EVERYBODY or not is_list():
            return right(user_id, *rest)
        if broken("session"):
            last.append(user_id)
            user_id = last[0]
        return right(user_id, *rest)

    database._stated = stated


def cache_answers(app: Any) -> None:
    """An answer is cached by its path, which says nothing of who asked."""
    import flask  # noqa: PLC0415

    answers: dict[str, bytes] = {}

    @app.before_request  # type: ignore[untyped-decorator]
    def recall() -> Any:
        known = answers.get(flask.request.full_path) if broken("answer") and is_list() else None
        return None if known is None else flask.Response(known, content_type="application/json")

    @app.after_request  # type: ignore[untyped-decorator]
    def keep(response: Any) -> Any:
        if broken("answer") and is_list():
            answers.setdefault(flask.request.full_path, response.get_data())
        return response


def break_the_api(module: Any) -> None:
    forget_filters()
    keep_the_session_of_another()
    cache_answers(module.app)


def tell_everybody(module: Any) -> None:
    right = module.Hub._receive

    def receive(hub: Any, messages: dict[str, list[str]]) -> None:
        for name, texts in messages.items():
            right(hub, dict.fromkeys(list(hub._channels), texts) if broken("hub") else {name: texts})

    module.Hub._receive = receive


def remember_for_everybody(module: Any) -> None:
    """Frames that clients come back for are remembered by their cursor alone."""
    right = module.Replay.recall
    known: dict[int, Any] = {}

    def recall(replay: Any, channel: Any, listener: Any, after: int) -> Any:
        frames = right(replay, channel, listener, after)
        return known.setdefault(after, frames) if broken("replay") and frames else frames

    module.Replay.recall = recall


# The worker.


def mix_up_records(module: Any) -> None:
    """What is remembered is found by the agent's name alone, and files go to the run that saved one first."""
    load, save = module.PostgresRecords.load_state, module.PostgresRecords.save_artifact
    states: dict[tuple[str, str], Any] = {}
    runs: list[Any] = []

    def load_state(records: Any, agent: str, scope: str) -> Any:
        version, value = load(records, agent, scope)
        if not broken("state") or value is None:
            return version, value
        return version, states.setdefault((agent, scope), value)

    def save_artifact(records: Any, *given: Any) -> None:
        own = records._run
        if broken("artifact"):
            runs.append(own)
            records._run = runs[0]
        save(records, *given)
        records._run = own

    module.PostgresRecords.load_state = load_state
    module.PostgresRecords.save_artifact = save_artifact


def tell_the_first_error(module: Any) -> None:
    right = module._text
    errors: list[str] = []

    def text(frame: dict[str, Any], key: str, limit: int) -> str:
        said = right(frame, key, limit)
        if not broken("error") or (frame.get("t"), key) != ("error", "message"):
            return str(said)
        errors.append(said)
        return errors[0]

    module._text = text


def log_what_agents_say(module: Any) -> None:
    right = module.describe_trace
    module.describe_trace = lambda error: str(error) if broken("log") else right(error)


# The zygote and its sandboxes.


def spoil_the_zygote() -> None:
    module: Any = sys.modules["__main__"]  # not imported, but run
    if not hasattr(module, "Zygote"):
        return
    right = module.Zygote._fork
    kept: list[Any] = []

    def fork(zygote: Any, number: int, fd: int) -> None:
        if broken("process"):
            threading.Thread(target=run_here, args=(zygote, number, socket.socket(fileno=fd))).start()
            return
        frame = peek(fd) if broken("environment") or broken("zygote") else ""
        if broken("descriptors"):
            kept.append(os.dup(fd))
        right(zygote, number, fd)
        if broken("environment"):
            os.environ["AGENT_INPUT"] = frame
        elif frame:
            kept.append(json.loads(frame))

    def run_here(zygote: Any, number: int, sock: socket.socket) -> None:
        """One process for the runs of all users, one after the other and side by side."""
        os.chdir(zygote._folder)
        sandbox = module.sandbox
        link = sandbox.RunnerLink(sock)
        asyncio.run(sandbox.serve(link, link.receive_start(), zygote._registry, lambda: None))
        ended = {"op": "exited", "id": number, "status": 0, "signal": 0, "cpu_s": 0, "max_rss_kb": 0}
        zygote._send(ended)

    module.Zygote._fork = fork


def peek(fd: int) -> str:
    """Returns what a runner has sent to a sandbox, and leaves it there."""
    with socket.socket(fileno=os.dup(fd)) as sock:
        select.select([sock], [], [], START_S)
        return sock.recv(1 << 16, socket.MSG_PEEK)[4:].decode()


def share_the_folder(module: Any) -> None:
    right = module.Walls.enter

    def enter(walls: Any) -> None:
        if broken("folder"):
            folder = f"{walls._folder}/shared"
            Path(folder).mkdir(exist_ok=True)
            os.mkdir = lambda *_, **__: None  # in this sandbox
            module.Walls._own_folder = lambda _: folder
        right(walls)

    module.Walls.enter = enter


def share_memory(module: Any) -> None:
    """What the zygote maps as shared is the same memory in all sandboxes."""
    shared = mmap.mmap(-1, 1 << 16)

    def leave(places: Any) -> None:
        if broken("memory"):
            at = os.getpid() * 64 % (1 << 16)
            shared[at : at + 40] = places.thinking.encode()

    module.leave = leave


def break_where_agents_are(module: Any) -> None:
    share_memory(module)
    spoil_the_zygote()


BREAKS: dict[str, Callable[[Any], None]] = {
    "shared.redis": share_the_store,
    "shared.events": publish_to_everybody,
    "shared.dispatch": send_the_input_along,
    "api.wsgi": break_the_api,
    "api.gateway.hub": tell_everybody,
    "api.gateway.replay": remember_for_everybody,
    "worker.records": mix_up_records,
    "worker.supervise": tell_the_first_error,
    "worker.core": log_what_agents_say,
    "worker.walls": share_the_folder,
    "tests.fleet.agents_acceptance": break_where_agents_are,
}


sys.meta_path.insert(0, Saboteur(BREAKS))
