"""The demo's users: each with a client, a stream of their own, and runs."""

from __future__ import annotations

import itertools
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from lanewise.board import RunView
from lanewise.client import Client
from lanewise.demo.fleet import DemoError
from lanewise.errors import ApiError
from lanewise.stream import Event, Stream
from shared.errors import LanewiseError
from shared.event_types import LAST_TYPES

PATIENCE_S = 60.0
ENDS_OF_ATTEMPTS = LAST_TYPES | {"run_recovering"}
MAX_WAITING = 100_000


@dataclass(frozen=True)
class Job:
    """A run to submit.

    Args:
        title: what to call it.
        expect: the outcome it has to have.
        show: print the result of its query, and save its chart.
    """

    title: str
    agent: str
    input: Mapping[str, Any]
    expect: str = "completed"
    show: bool = False


@dataclass
class Trip:
    """A submitted job on its way. Times are monotonic seconds.

    Attributes:
        first_at: when the agent's first event arrived here.
        cancel_at: when we asked to cancel it.
        output: of the completed run.
    """

    job: Job
    user: str
    view: RunView
    submitted_at: float
    first_at: float | None = None
    cancel_at: float | None = None
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def first_s(self) -> float | None:
        """From the submission to the agent's first event, seconds."""
        return None if self.first_at is None else self.first_at - self.submitted_at

    @property
    def total_s(self) -> float:
        """From the submission to the last event, seconds."""
        return (self.view.ended_at or time.monotonic()) - self.submitted_at

    def apply(self, event: Event, at: float) -> None:
        """Takes in an event that arrived."""
        self.view.apply(event)
        if self.first_at is None and event["type"].startswith("agent_"):
            self.first_at = at
        if self.view.ended:
            self.view.ended_at = at


class Lanes:
    """Follows the streams of several users at once, each in a thread of its own.

    Args:
        clients: by user.
    """

    def __init__(self, clients: Mapping[str, Client]) -> None:
        self.clients = clients
        self.trips: dict[str, Trip] = {}
        self.events: dict[str, list[Event]] = {user: [] for user in clients}
        self._inbox: queue.Queue[tuple[str, Event | LanewiseError, float]] = queue.Queue(MAX_WAITING)
        self._streams: dict[str, Stream] = {user: client.stream().open() for user, client in clients.items()}
        self._threads = [threading.Thread(target=self._read, args=(user,)) for user in clients]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Ends the streams."""
        for stream in self._streams.values():
            stream.close()
        for thread in self._threads:
            thread.join()

    def submit(self, jobs: Mapping[str, Sequence[Job]]) -> list[Trip]:
        """Submits everybody's jobs, all users at the same time."""
        with ThreadPoolExecutor(len(jobs)) as pool:
            made = pool.map(lambda user: [self._submit(user, job) for job in jobs[user]], jobs)
            trips = [trip for several in made for trip in several]
        self.trips |= {trip.view.id: trip for trip in trips}
        return trips

    def follow(self, trips: Iterable[Trip], tell: Callable[[Trip, Event], None]) -> None:
        """Takes in events until all these runs have ended.

        Args:
            tell: called for each event of our runs.

        Raises:
            DemoError: that takes too long.
            LanewiseError: a stream broke.
        """
        deadline = time.monotonic() + PATIENCE_S
        while waiting := [trip for trip in trips if not trip.view.ended]:
            try:
                user, event, at = self._inbox.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                names = ", ".join(f"{trip.job.title} ({trip.view.status})" for trip in waiting)
                raise DemoError(f"not ended after {PATIENCE_S:g} s: {names}") from None
            if isinstance(event, LanewiseError):
                raise event
            self.events[user].append(event)
            trip = self.trips.get(event["run_id"])
            if trip is not None:
                trip.apply(event, at)
                tell(trip, event)

    def foreign(self) -> list[str]:
        """Returns every event that reached a user who does not own its run: it has to be empty."""
        return [
            f"{user} saw {event['type']} of run {event['run_id']}"
            for user, events in self.events.items()
            for event in events
            if event["run_id"] not in self.trips or self.trips[event["run_id"]].user != user
        ]

    def gaps(self) -> list[str]:
        """Returns where the numbers of a stream are not one after the other: it has to be empty."""
        return [
            f"{user}: {later['seq']} after {earlier['seq']}"
            for user, events in self.events.items()
            for earlier, later in itertools.pairwise(events)
            if later["seq"] != earlier["seq"] + 1
        ]

    def leaks(self, canaries: Mapping[str, str]) -> list[str]:
        """Returns every place where a user was shown another user's secret: it has to be empty."""
        shown = {user: json.dumps(events) for user, events in self.events.items()}
        for trip in self.trips.values():
            shown[trip.user] += json.dumps(trip.run)
        return [
            f"{user} saw {owner}'s secret"
            for user, text in shown.items()
            for owner, canary in canaries.items()
            if owner != user and canary in text
        ]

    def most_in_progress(self) -> int:
        """Returns how many runs of one user were in progress at the same time, at most."""
        most = 0
        for events in self.events.values():
            going: set[str] = set()
            for event in events:
                if event["type"] == "run_started":
                    going.add(event["run_id"])
                elif event["type"] in ENDS_OF_ATTEMPTS:
                    going.discard(event["run_id"])
                most = max(most, len(going))
        return most

    def trespass(self) -> tuple[int, list[str]]:
        """Lets everybody ask for everybody else's runs; returns how often, and what was not answered with 404."""
        tries, failures = 0, []
        for user, client in self.clients.items():
            for trip in [trip for trip in self.trips.values() if trip.user != user]:
                tries += 1
                try:
                    client.run(trip.view.id)
                except ApiError as error:
                    if error.status == 404:  # noqa: PLR2004 - what the contract says
                        continue
                failures.append(f"{user} got at {trip.user}'s run {trip.view.id}")
        return tries, failures

    def _submit(self, user: str, job: Job) -> Trip:
        at = time.monotonic()
        run = self.clients[user].submit(job.agent, dict(job.input), metadata={"title": job.title})
        view = RunView.of(run)
        view.label, view.lane = job.title, user
        return Trip(job, user, view, at)

    def _read(self, user: str) -> None:
        try:
            for event in self._streams[user]:
                self._inbox.put((user, event, time.monotonic()))
        except LanewiseError as error:
            self._inbox.put((user, error, time.monotonic()))
