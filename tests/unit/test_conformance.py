"""The Python client plays the scenarios that each client must pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import httpx
import pytest

from lanewise import ApiError, Client, GapError, Stream, StreamClosedError, retry
from tests.conformance import SCENARIOS, Entry, Flood, Scenario, end, judge, know_tokens, play, snapshot
from tests.scripted import Service, serving


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as running:
        know_tokens(running)
        yield running


@pytest.fixture
def client(service: Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Client]:
    monkeypatch.setattr(retry, "FIRST_S", 0.02)
    with Client(service.url, "a-token", timeout_s=5, retry_s=5) as made:
        yield made


class CrashError(Exception):
    """The consumer fails."""


class Consumer:
    """Uses the client as its documentation says: the position is kept after each event that was dealt with."""

    def __init__(self, client: Client, scenario: Scenario) -> None:
        self.log: list[Entry] = []
        self._client = client
        self._wanted = len(scenario.log)
        self._position = scenario.after
        self._crash_at = scenario.crash_at

    def follow(self) -> None:
        """Consumes until the log is as long as it must be, or the stream has ended."""
        with self._client.stream(self._position) as stream:
            try:
                self._consume(stream)
            except ApiError as error:
                self.log.append(end(error.status))
            except StreamClosedError as error:
                self.log.append(end(error.close_code))

    def _consume(self, stream: Stream) -> None:
        if self._position is None:
            stream.open()
            self._note(stream, snapshot(None, stream.last or 0, stream.snapshot["runs"]))
        while len(self.log) < self._wanted:
            try:
                self._note(stream, next(stream)["seq"])
            except GapError as gap:
                self._note(stream, snapshot(gap.reason, gap.head, gap.snapshot["runs"]))

    def _note(self, stream: Stream, entry: Entry) -> None:
        if len(self.log) == self._crash_at:
            self._crash_at = None
            raise CrashError
        self.log.append(entry)
        self._position = stream.last


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_client_passes(service: Service, client: Client, scenario: Scenario) -> None:
    play(service, scenario)
    consumer = Consumer(client, scenario)
    with suppress(CrashError):
        consumer.follow()
    if scenario.crash_at is not None:
        consumer.follow()
    judge(service, scenario, consumer.log)
    assert all(request.headers["Authorization"] == "Bearer a-token" for request in service.requests)
    assert "a-token" not in "".join(request.url for request in service.requests)


def test_a_slow_consumer_is_not_sent_more_than_it_can_take(service: Service, client: Client) -> None:
    flood = Flood(service, blocked_s=1)
    seen: list[int] = []
    with client.stream(0) as stream:
        while len(seen) < flood.count:
            seen.append(next(stream)["seq"])
            if len(seen) == 1:
                assert httpx.get(f"{service.url}/flooded", timeout=20).json() == {"stopped": True, "back": False}
    assert flood.stopped_at is not None, "all was taken, for a consumer that stood still"
    assert seen == list(range(1, flood.count + 1))
