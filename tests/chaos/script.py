"""A run whose worker is this process: its events are committed one by one, and published as the story wants it."""

from __future__ import annotations

import random
from contextlib import suppress

from shared import runs
from shared.event_types import EventType
from shared.events import Event, StoredEvent, append, publish
from shared.outcomes import Completed
from shared.redis import RedisError
from shared.services import Services
from tests.chaos.gateways import Person
from tests.services import an_agent, serve, start_run, submit_run

NOBODY = an_agent("nobody", queue="nobody")  # the worker that the fleet takes us for: alive, and with nothing to do
WAYS = ("published", "published", "overtaken", "half", "silent")
TIME_LIMIT_S = 3000.0


class Script:
    """One user's."""

    def __init__(self, services: Services, person: Person) -> None:
        self._services = services
        self._canary = person.canary
        self._said = 0
        serve(services, NOBODY)
        run = submit_run(services, person.name, agent=an_agent("scripted"), time_limit_s=TIME_LIMIT_S, served=False)
        self._run = start_run(services, run, f"{NOBODY.name}@{NOBODY.queue}")

    def play(self, way: str, chance: random.Random) -> None:
        """Says a few things twice, and publishes as the way wants it."""
        first, second = self.say(chance.randint(1, 4)), self.say(chance.randint(1, 4))
        told = {"published": (first, second), "overtaken": (second, first), "half": (second,), "silent": ()}[way]
        for stored in told:
            self.publish(stored)

    def say(self, count: int = 1, padding: int = 0) -> list[StoredEvent]:
        """Commits so many events, with so many bytes besides, and publishes nothing."""
        texts = [f"{self._canary} {self._said + number} {'x' * padding}" for number in range(count)]
        self._said += count
        run = self._run
        events = [
            Event(run.user_id, run.id, run.attempt, EventType.AGENT_THINKING, run.agent, {"text": text})
            for text in texts
        ]
        with self._services.database.user_session(run.user_id) as session:
            stored, _ = append(session, events)
        assert len(stored) == count
        return stored

    def end(self) -> list[StoredEvent]:
        """Commits the run's last event, and publishes nothing."""
        run = self._run
        with self._services.database.user_session(run.user_id) as session:
            stored = runs.finish(session, run, Completed({"canary": self._canary}), "worker:nobody")
        assert stored
        return stored

    def publish(self, stored: list[StoredEvent]) -> None:
        """Publishes; without Redis that comes to nothing, as in a worker."""
        with suppress(RedisError):
            publish(self._services.redis, self._services.keys, stored)
