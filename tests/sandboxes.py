"""Runs under a real supervisor in real sandboxes of a real zygote; Postgres and Redis are left out."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from lanewise.process import wait_until
from shared.events import Event
from shared.models import Run
from shared.outcomes import Lost, Outcome
from tests.services import a_context
from worker.live import LiveRun
from worker.supervise import Supervisor
from worker.walls import Confinement
from worker.zygote_client import SandboxProcess, ZygoteClient

REPOSITORY = Path(__file__).parents[1]
AGENTS = "tests.agents,tests.agents_endless"
PATIENCE_S = 30.0  # so long only if something hangs
# What a worker's environment holds and no sandbox may see.
CANARIES = {
    "LANEWISE_SECRET_KEY": "canary-secret-key-0123456789abcdef",
    "LANEWISE_DATABASE_URL": "postgresql://canary:canary-password@127.0.0.1:1/canary",
    "LANEWISE_RUN_DATABASE_URL": "postgresql://canary:canary-password@127.0.0.1:1/canary",
    "LANEWISE_REDIS_URL": "redis://:canary-password@127.0.0.1:1/0",
    "LANEWISE_JWT_SECRET": "canary-jwt-secret-0123456789abcdef",
    "CANARY_OF_THE_SHELL": "canary-of-the-shell",
}


@contextmanager
def worker_environment(agents: str = AGENTS, **further: str) -> Iterator[None]:
    """Gives this process, for a while, what a worker has in its environment: agents, and secrets (here: canaries)."""
    paths = (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))
    names = {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "LANEWISE_AGENTS": agents}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (CANARIES | names | further).items():
            patch.setenv(name, value)
        yield


@contextmanager
def a_zygote(
    agents: str = AGENTS, *, memory_mb: int = 256, passed: tuple[str, ...] = (), **further: str
) -> Iterator[ZygoteClient]:
    """Runs a zygote with these agents. One that dies finds them again only within `worker_environment`."""
    zygote = ZygoteClient(Confinement(memory_mb), passed)
    try:
        with worker_environment(agents, **further):
            zygote.start()
        yield zygote
    finally:
        zygote.stop()


class Attempt:
    """One attempt under way: what came of it, and what can be done to it.

    Args:
        zygote: to fork from.
        agent: one of `tests.agents`.
        run_input: its input.
        grace_s: seconds between asking it to end and SIGTERM.
        time_limit_s: seconds from now.
        put_event: default: keeps them.
        answer: of calls; default: a store in memory.
        granted: names of tools.
    """

    def __init__(  # noqa: PLR0913 - what an attempt is made of
        self,
        zygote: ZygoteClient,
        agent: str,
        run_input: Mapping[str, Any],
        *,
        user_id: str = "alice",
        grace_s: float = 0.2,
        time_limit_s: float = 60,
        put_event: Callable[[Event, float], bool] | None = None,
        answer: Callable[[str, dict[str, Any]], Any] | None = None,
        granted: tuple[str, ...] = (),
    ) -> None:
        context = a_context(user_id)
        self.run = Run(
            user_id=context.user_id, id=context.run_id, thread_id=context.thread_id, attempt=1, agent=agent,
            time_limit_s=time_limit_s, ran_s=0.0, context=context.to_dict(), lost=[],
        )  # fmt: skip
        self.start = {
            "t": "start", "context": context.to_dict(), "agent": agent, "input": dict(run_input), "granted": granted,
            "time_left_s": time_limit_s, "database_url": None, "database_ports": (),
            "database_token": "",
        }  # fmt: skip
        self.live = LiveRun(self.run)
        self.events: list[Event] = []
        self.store: dict[str, Any] = {}
        self.ended_at: float | None = None
        self.dead_at_end = False
        self._changed = threading.Condition()
        self._outcome: Outcome | None = None
        self.sandbox: SandboxProcess = zygote.fork(self.live.wake)
        self._supervisor = Supervisor(
            self.live,
            self.sandbox,
            kill=lambda signum: zygote.kill(self.sandbox, signum),
            put_event=put_event or self._keep,
            answer_call=answer or self._answer,
            grace_s=grace_s,
        )
        self._thread = threading.Thread(target=self._supervise, daemon=True)
        self._thread.start()

    @property
    def texts(self) -> list[str]:
        """The texts of the tokens that came so far."""
        return [event.data["text"] for event in list(self.events) if event.type == "agent_token"]

    @property
    def kinds(self) -> list[str]:
        """The types of the events that came so far."""
        return [str(event.type) for event in list(self.events)]

    @property
    def pid(self) -> int:
        """Of the sandbox."""
        assert wait_until(lambda: self.sandbox.pid is not None, PATIENCE_S)
        assert self.sandbox.pid is not None
        return self.sandbox.pid

    def wait_for(self, text: str = "begun") -> None:
        """Waits for a token that begins so."""
        with self._changed:
            found = self._changed.wait_for(
                lambda: any(found.startswith(text) for found in self.texts) or self._outcome,
                PATIENCE_S,
            )
        assert found, f"no token {text!r}"
        assert any(found.startswith(text) for found in self.texts), f"ended without a token {text!r}: {self._outcome}"

    def outcome(self, within_s: float = PATIENCE_S) -> Outcome:
        """Waits for the end."""
        self._thread.join(within_s)
        assert not self._thread.is_alive(), f"no outcome within {within_s} s"
        assert self._outcome is not None, "the supervisor raised"
        return self._outcome

    def kill(self, signum: int = signal.SIGKILL) -> None:
        """Signals the sandbox itself, from outside."""
        os.kill(self.pid, signum)

    def end(self) -> None:
        """Ends it, if it has not ended."""
        if self._thread.is_alive():
            self.live.stop(Lost("drained", "the test is over", counted=False))
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def _supervise(self) -> None:
        try:
            self._outcome = self._supervisor.run(self.start)
            self.dead_at_end = self.sandbox.pid is not None and gone(self.sandbox.pid)
            self.ended_at = time.monotonic()
        finally:
            self._supervisor.close()
            self.live.close()
            with self._changed:
                self._changed.notify_all()

    def _keep(self, event: Event, timeout_s: float) -> bool:
        del timeout_s
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()
        return True

    def _answer(self, method: str, parameters: dict[str, Any]) -> Any:
        if method == "store.set":
            self.store[parameters["key"]] = parameters["value"]
        return self.store.get(parameters["key"])


def gone(*pids: int) -> bool:
    """Tells whether none of the processes lives any more; a dead one that nobody has reaped is gone too."""
    for pid in pids:
        try:
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
        except psutil.NoSuchProcess:
            continue
    return True


def session_activity(session: int) -> str:
    """Returns what a server process of the embedded Postgres does, such as "SELECT" or "idle"; empty if it is gone.

    By its title, because of a sandbox's session Postgres itself tells nobody.
    """
    with suppress(psutil.NoSuchProcess):
        return " ".join(psutil.Process(session).cmdline()).rpartition(") ")[2].strip()
    return ""


def all_gone(*pids: int, within_s: float = 2.0) -> bool:
    """Waits until the processes are gone."""
    return wait_until(lambda: gone(*pids), within_s)


def descendants(pid: int) -> list[int]:
    """Returns the pids of all processes below one."""
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
