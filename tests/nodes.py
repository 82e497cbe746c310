"""A worker without Celery, in this process: its parts over real stores and a real zygote, its loops ticked by hand."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, TypeVar

import pytest
import redis
import sqlalchemy as sa
from prometheus_client import REGISTRY

from lanewise.process import wait_until
from shared import events
from shared.errors import UnavailableError
from shared.models import Agent, Run
from shared.services import Services
from tests.services import submit_run
from tests.steps import stored
from worker import node as node_module
from worker.live import LiveRun
from worker.node import WorkerNode
from worker.zygote_client import ZygoteClient

PATIENCE_S = 10.0
T = TypeVar("T")


class Node:
    """What a worker process has. It hears no broker: `pump` stands for Celery's consumer.

    Args:
        services: of this worker.
        zygote: already running; it is not stopped here.
    """

    def __init__(self, services: Services, zygote: ZygoteClient) -> None:
        self.services = services
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(node_module, "ZygoteClient", lambda *_, **__: zygote)
            self.parts = WorkerNode(services, ["default"], 8)
        self.parts._announce()
        self.parts.writer.start()
        self._threads: list[threading.Thread] = []
        self._raised: list[BaseException] = []

    @classmethod
    @contextmanager
    def start(cls, services: Services, zygote: ZygoteClient) -> Iterator[Node]:
        """Runs one until the end of the block; what it still does then is handed back."""
        node = cls(services, zygote)
        try:
            yield node
        finally:
            node.end()

    @property
    def id(self) -> str:
        """Of the worker."""
        return self.parts.id

    # Submitting

    def catalogue(self, name: str, **columns: Any) -> Agent:
        """Returns one of this worker's agents as the api would find it."""
        (entry,) = [entry for entry in self.parts.zygote.agents if entry["name"] == name]
        return Agent(**(entry | columns))

    def submit(self, agent: str, run_input: Any = None, user_id: str = "alice", **options: Any) -> Run:
        """Stores a parked run of one of its agents; `max_attempts` and the options of `submit_run` can be given."""
        columns = {name: options.pop(name) for name in ("max_attempts",) if name in options}
        return submit_run(
            self.services, user_id, agent=self.catalogue(agent, **columns), run_input=run_input, **options
        )

    def begin(self, agent: str, run_input: Any = None, user_id: str = "alice", **options: Any) -> Run:
        """Submits, admits and takes a run from the broker; it is under way when this returns."""
        run = self.submit(agent, run_input, user_id, **options)
        self.services.dispatcher.admit(user_id)

        def claimed() -> bool:
            # A run that has just ended may have been faster to admit this one: its message is then still on its way.
            self.pump()
            now = self.now(run)
            return now.status != "queued" or now.attempt > 0  # one that could not be forked waits again

        assert wait_until(claimed, PATIENCE_S), self.log(run)
        return run

    # Working

    def pump(self) -> int:
        """Executes every message that waits in the broker, each in its thread; returns how many."""
        messages = take_messages(self.services)
        for text in messages:
            self.execute(text)
        return len(messages)

    def execute(self, text: object) -> threading.Thread:
        """Executes a message as Celery's task does, in a thread of its own."""
        thread = threading.Thread(target=self._execute, args=(text,), daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _execute(self, text: object) -> None:
        try:
            self.parts.runner.execute(text)
        except BaseException as error:  # noqa: BLE001 - raised again where the test waits
            self._raised.append(error)

    def join(self) -> None:
        """Waits until everything that was begun is over, and raises what it raised."""
        for thread in self._threads:
            thread.join(PATIENCE_S)
            assert not thread.is_alive(), "a runner does not come to its end"
        if self._raised:
            raise self._raised[0]

    def live(self, run: Run) -> LiveRun:
        """Waits until a run is under way here."""
        assert wait_until(lambda: run.id in self.parts.live, PATIENCE_S), self.now(run).status
        return self.parts.live[run.id]

    def end(self) -> None:
        """Hands back what is under way and stops."""
        self.parts.hand_back_all()
        self.parts._closing.set()
        self.parts.writer.stop()
        for loop in (self.parts._control, self.parts.heartbeat, self.parts.leader, self.parts.sessions):
            loop.stop()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    # Looking

    def now(self, run: Run) -> Run:
        """Returns the run as it is stored now."""
        return _again(lambda: stored(self.services.database, run))

    def wait(self, run: Run, *status: str, timeout_s: float = PATIENCE_S) -> Run:
        """Waits until the run has one of these states, by default until it has ended."""
        wanted = status or ("completed", "failed", "cancelled", "timed_out")
        assert wait_until(lambda: self.now(run).status in wanted, timeout_s), (self.now(run).status, self.log(run))
        return self.now(run)

    def log(self, run: Run) -> list[dict[str, Any]]:
        """Returns the run's events so far."""

        def read() -> list[dict[str, Any]]:
            with self.services.database.user_session(run.user_id) as session:
                return events.read_run(session, run.user_id, run.id, 0, 10_000)

        return _again(read)

    def kinds(self, run: Run) -> list[str]:
        """Returns the types of the run's events so far."""
        return [event["type"] for event in self.log(run)]

    def wait_for_event(self, run: Run, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Waits for an event of the run that is found."""
        assert wait_until(lambda: any(map(found, self.log(run))), PATIENCE_S), self.log(run)
        return next(filter(found, self.log(run)))

    def wait_for_text(self, run: Run, text: str = "begun", attempt: int = 1) -> None:
        """Waits until the agent has said so."""
        self.wait_for_event(run, lambda event: event["data"].get("text") == text and event["attempt"] == attempt)

    def wait_for_kind(self, run: Run, kind: str) -> dict[str, Any]:
        """Waits for an event of a type."""
        return self.wait_for_event(run, lambda event: event["type"] == kind)

    def slots(self, user_id: str = "alice") -> list[str]:
        """Returns the runs that hold a slot."""
        return self.services.slots.held(user_id)


def _again(read: Callable[[], T]) -> T:
    """Reads once more if a restart of Postgres has left a dead connection in the pool: the first error clears it."""
    try:
        return read()
    except UnavailableError:
        return read()


def take_messages(services: Services, queue: str = "default") -> list[str]:
    """Takes what waits in the broker, oldest first; returns the arguments of each task."""
    with closing(redis.Redis.from_url(services.settings.effective_broker_url, decode_responses=True)) as client:
        raw = client.rpop(f"lw:{services.settings.deployment}:broker:{queue}", 1000) or []
    assert isinstance(raw, list)
    bodies = [json.loads(base64.b64decode(json.loads(text)["body"])) for text in raw]
    return [arguments[0] for arguments, *_ in bodies]


def metric(name: str, **labels: str) -> float:
    """Returns the present value of one of this process's metrics, 0 before it was first touched."""
    return REGISTRY.get_sample_value(name, labels) or 0.0


def age_worker(superuser: sa.Connection, worker_id: str, seconds: float) -> None:
    """Sets a worker's last sign of life back in time."""
    superuser.execute(
        sa.text("UPDATE lanewise.workers SET heartbeat_at = now() - make_interval(secs => :age) WHERE id = :id"),
        {"age": seconds, "id": worker_id},
    )
