"""An agent that does not end, in all the ways in which code can refuse to."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, ClassVar, Literal

import sqlalchemy as sa
from pydantic import BaseModel

from lanewise import Agent, AgentRun, UserExecutionContext

FOREVER_S = 600
UNENDING = f"import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep({FOREVER_S})"
# What would end the session sooner or later by itself.
SWITCHED_OFF = ("client_connection_check_interval", "statement_timeout", "idle_in_transaction_session_timeout")
STATEMENTS = {
    "query": f"SELECT pg_sleep({FOREVER_S})",
    "busy query": "SELECT count(*) FROM generate_series(1, 10000000000)",
    "lock wait": "SELECT count(*) FROM document_passages",
}


class Way(BaseModel):
    how: Literal[
        "sleep", "c call", "stopped", "child", "daemon",
        "query", "busy query", "lock wait", "idle", "inherited", "thread",
    ]  # fmt: skip


class Endless(Agent):
    """Says the pids of its process, its children and its database session, then "begun"; and stays."""

    name: ClassVar[str] = "endless"
    max_attempts: ClassVar[int] = 1
    Input: ClassVar[type[BaseModel]] = Way

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        how = run.input.how
        run.emit.thinking(f"pid {os.getpid()}")
        if how == "thread":
            threading.Thread(target=hold_session, args=(run, "query"), daemon=True).start()
            time.sleep(1)  # in which the statement is sent; then this run ends as if all were well
        elif how in {"sleep", "c call", "stopped"}:
            begun(run)
            stay(how)
        elif how in {"child", "daemon"}:
            ignore_sigterm()
            begun(run, children=[child() if how == "child" else daemon()])
            stay("sleep")
        else:
            hold_session(run, how)


def hold_session(run: AgentRun, how: str) -> None:
    with run.db() as session:
        for name in SWITCHED_OFF:
            session.execute(sa.text(f"SET {name} = 0"))
        pid = session.scalar(sa.text("SELECT pg_backend_pid()"))
        children = [daemon()] if how == "inherited" else []  # it has the session's socket, too
        if how == "idle":
            session.execute(sa.text("SELECT record_own_step('held', '1')"))  # locks the run's row
        begun(run, children=children, session=pid)
        if how == "idle":
            time.sleep(FOREVER_S)
        session.execute(sa.text(STATEMENTS.get(how, STATEMENTS["query"])))


def begun(run: AgentRun, *, children: list[int] | None = None, session: int | None = None) -> None:
    run.emit.thinking(json.dumps({"children": children or [], "session": session}))
    run.emit.token("begun")


def ignore_sigterm() -> None:
    """As `signal.signal` does, which refuses to in a thread; a plain agent runs in one."""
    ctypes.CDLL(None).signal(signal.SIGTERM, ctypes.c_void_p(signal.SIG_IGN))


def stay(how: str) -> None:
    if how == "c call":
        sum(itertools.repeat(1))  # in C, and never gives up the interpreter
    if how == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    time.sleep(FOREVER_S)


def child() -> int:
    """Starts a process that ignores SIGTERM; returns its pid."""
    return subprocess.Popen([sys.executable, "-c", UNENDING]).pid


def daemon() -> int:
    """Forks twice, so that the grandchild has neither our session nor us as its parent; returns its pid."""
    read, write = os.pipe()
    if (first := os.fork()) == 0:
        os.setsid()
        if (second := os.fork()) == 0:
            ignore_sigterm()
            time.sleep(FOREVER_S)
        os.write(write, str(second).encode())
        os._exit(0)
    os.waitpid(first, 0)
    return int(os.read(read, 20))
