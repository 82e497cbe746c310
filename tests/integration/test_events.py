"""The event log: numbers without gaps whatever runs at once, the fence, and what is published."""

from __future__ import annotations

import json
import random
import threading
from collections import defaultdict
from dataclasses import replace
from typing import Any

import pytest
import redis
import sqlalchemy as sa

from shared import events, runs
from shared.audit import Deed
from shared.database import Database
from shared.event_types import SANDBOX_TYPES, EventType
from shared.events import Attempt, Event, StoredEvent, append
from shared.models import AuditEntry, Run, RunEvent
from shared.outcomes import Completed, Lost
from shared.services import Services
from tests.services import grant_run, in_parallel, start_run, submit_run

USERS = ("alice", "bob", "carol")
RUNS_EACH = 8


def event(run: Run, kind: EventType = EventType.AGENT_THINKING, **data: Any) -> Event:
    return Event(run.user_id, run.id, run.attempt, kind, run.agent, data)


def store(database: Database, *items: Event) -> list[StoredEvent]:
    with database.system_session() as session:
        return append(session, items).stored


def in_log(database: Database, run: Run) -> list[dict[str, Any]]:
    with database.user_session(run.user_id) as session:
        return events.read_run(session, run.user_id, run.id, 0, 1000)


@pytest.fixture
def run(services: Services) -> Run:
    """A running run: its log holds `run_queued` and `run_started`."""
    return start_run(services, submit_run(services))


def test_numbers_go_on_from_the_last_one(database: Database, run: Run) -> None:
    stored = store(database, event(run, text="one"), event(run, text="two"))
    assert [(item.seq, item.run_seq) for item in stored] == [(3, 3), (4, 4)]
    with database.user_session(run.user_id) as session:
        assert events.head(session, run.user_id) == 4
        found = runs.find(session, run.user_id, run.id)
        assert found is not None
        assert found.last_run_seq == 4
        assert events.head(session, "nobody-yet") == 0


def test_what_append_returns_is_what_the_log_has(database: Database, run: Run) -> None:
    stored = store(database, event(run, EventType.TOOL_EXECUTING, deep={"ü\u2028😀": [1, None, 1.5]}))
    assert stored[0].view() == in_log(database, run)[-1]
    assert stored[0].view() == {
        "t": "event", "seq": 3, "run_id": run.id, "run_seq": 3, "thread_id": run.thread_id, "attempt": 1,
        "type": "tool_executing", "agent": "echo", "at": events.iso(stored[0].at),
        "correlation_id": run.correlation_id, "data": {"deep": {"ü\u2028😀": [1, None, 1.5]}},
    }  # fmt: skip


def test_a_batch_over_users_and_runs_numbers_each_in_its_own_order(services: Services) -> None:
    mine = {user_id: [start_run(services, submit_run(services, user_id)) for _ in range(2)] for user_id in USERS}
    batch = [event(run, n=n) for n in range(4) for pair in mine.values() for run in pair]
    random.Random(1).shuffle(batch)
    stored = store(services.database, *batch)
    assert [item.event for item in stored] == batch
    for user_id in USERS:
        assert [item.seq for item in stored if item.event.user_id == user_id] == list(range(5, 13))
        for run in mine[user_id]:
            assert [item.run_seq for item in stored if item.event.run_id == run.id] == [3, 4, 5, 6]


def test_nothing_to_append(database: Database) -> None:
    assert store(database) == []


def test_a_rolled_back_batch_leaves_no_hole(database: Database, run: Run) -> None:
    with pytest.raises(KeyError), database.system_session() as session:
        assert append(session, [event(run)]).stored[0].seq == 3
        raise KeyError
    assert [item.seq for item in store(database, event(run))] == [3]


class TestRepeatedBatch:
    """The commit of a batch went through and its answer was lost: the batch comes again."""

    def numbered(self, run: Run, *ordinals: int) -> list[Event]:
        return [replace(event(run, n=number), ordinal=number) for number in ordinals]

    def test_nothing_is_stored_twice_and_the_new_follows(self, database: Database, run: Run) -> None:
        assert len(store(database, *self.numbered(run, 1, 2))) == 2
        assert store(database, *self.numbered(run, 1, 2)) == []
        again = store(database, *self.numbered(run, 2, 3))
        assert [(item.event.data["n"], item.run_seq) for item in again] == [(3, 5)]
        assert [entry["data"].get("n") for entry in in_log(database, run)[2:]] == [1, 2, 3]

    def test_it_is_not_taken_for_an_attempt_that_is_over(self, database: Database, run: Run) -> None:
        store(database, *self.numbered(run, 1))
        with database.system_session() as session:
            assert append(session, self.numbered(run, 1)) == ([], set())
            assert append(session, [replace(event(run), attempt=7, ordinal=1)]).refused == {Attempt(run.id, 7)}

    def test_its_deeds_are_recorded_once_and_those_of_refused_events_not(self, database: Database, run: Run) -> None:
        first, second = (
            replace(item, deed=Deed(run.user_id, "user:alice", "tool.deny", run.id, f"{item.ordinal}"))
            for item in self.numbered(run, 1, 2)
        )
        store(database, first)
        store(database, first, second, replace(second, attempt=7))
        with database.user_session(run.user_id) as session:
            query = sa.select(AuditEntry.outcome).where(AuditEntry.action == "tool.deny").order_by(AuditEntry.id)
            assert session.scalars(query).all() == ["1", "2"]

    def test_the_next_attempt_counts_anew(self, database: Database, services: Services, run: Run) -> None:
        store(database, *self.numbered(run, 1, 2))
        with database.user_session(run.user_id) as session:
            runs.finish(session, run, Lost("x", "y"), "w")
        again = start_run(services, run)
        assert len(store(database, *self.numbered(again, 1))) == 1


class TestFence:
    def test_another_attempt_stores_nothing_and_takes_no_number(self, database: Database, run: Run) -> None:
        for attempt in (0, 2):
            stale = Event(run.user_id, run.id, attempt, EventType.AGENT_PROGRESS, "echo", {"fraction": 0.9})
            assert store(database, stale) == []
        assert len(in_log(database, run)) == 2
        assert store(database, event(run))[0].seq == 3
        with database.user_session(run.user_id) as session:
            found = runs.find(session, run.user_id, run.id)
            assert found is not None
            assert found.progress == 0

    def test_the_others_of_the_batch_are_stored_without_a_gap(self, services: Services, run: Run) -> None:
        other = start_run(services, submit_run(services, run.user_id))
        stale = Event(run.user_id, run.id, 7, EventType.AGENT_THINKING, "echo")
        batch = [event(run, n=1), stale, event(other, n=2), stale, event(run, n=3)]
        stored = store(services.database, *batch)
        assert [item.event.data["n"] for item in stored] == [1, 2, 3]
        assert [item.seq for item in stored] == [5, 6, 7]

    def test_another_users_run_stores_nothing(self, database: Database, run: Run) -> None:
        assert store(database, Event("bob", run.id, run.attempt, EventType.AGENT_THINKING, "echo")) == []

    def test_a_session_of_another_user_stores_nothing(self, database: Database, run: Run) -> None:
        with database.user_session("bob") as session:
            assert append(session, [event(run)]) == ([], {Attempt(run.id, 1)})

    @pytest.mark.parametrize("then", ["completed", "parked", "granted", "running"])
    def test_an_attempt_that_is_over_stores_nothing(self, services: Services, run: Run, then: str) -> None:
        """Not even while no other attempt has begun yet."""
        outcome = Completed({}) if then == "completed" else Lost("worker_lost", "it went silent")
        with services.database.user_session(run.user_id) as session:
            assert runs.finish(session, run, outcome, "leader")
        if then == "granted":
            grant_run(services, run)
        elif then == "running":
            start_run(services, run)
        before = in_log(services.database, run)
        for kind in SANDBOX_TYPES:
            assert store(services.database, event(run, kind)) == []
        assert in_log(services.database, run) == before

    def test_what_is_said_of_a_queued_run_is_stored(self, services: Services) -> None:
        run = submit_run(services)
        assert len(store(services.database, event(run, EventType.RUN_POSITION, position=2))) == 1


class TestProgress:
    def progress(self, database: Database, run: Run) -> tuple[float, str]:
        with database.user_session(run.user_id) as session:
            found = runs.find(session, run.user_id, run.id)
            assert found is not None
            return found.progress, found.progress_note

    def test_the_last_of_a_batch_is_what_the_run_shows(self, database: Database, run: Run) -> None:
        items = [event(run, EventType.AGENT_PROGRESS, fraction=f, note=n) for f, n in ((0.1, "a"), (0.7, "b"))]
        store(database, *items, event(run, EventType.AGENT_TOKEN, text="x", fraction=0.9, note="not progress"))
        assert self.progress(database, run) == (0.7, "b")

    def test_what_an_event_leaves_out_stays(self, database: Database, run: Run) -> None:
        store(database, event(run, EventType.AGENT_PROGRESS, fraction=0.5, note="half"))
        store(database, event(run, EventType.AGENT_PROGRESS, fraction=0.6))
        assert self.progress(database, run) == (0.6, "half")
        store(database, event(run, EventType.AGENT_THINKING, text="x"))
        assert self.progress(database, run) == (0.6, "half")


class TestReading:
    def test_pages_by_number(self, database: Database, run: Run) -> None:
        store(database, *(event(run, n=n) for n in range(8)))
        with database.user_session(run.user_id) as session:
            assert [e["seq"] for e in events.read_stream(session, run.user_id, 4, 3)] == [5, 6, 7]
            assert [e["run_seq"] for e in events.read_run(session, run.user_id, run.id, 8, 10)] == [9, 10]
            assert events.read_stream(session, run.user_id, 10, 10) == []

    def test_a_page_of_large_events_ends_early_and_has_at_least_one(
        self, database: Database, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store(database, *(event(run, text="x" * 60_000) for _ in range(40)))
        with database.user_session(run.user_id) as session:
            pages = (
                events.read_stream(session, run.user_id, 3, 500),
                events.read_run(session, run.user_id, run.id, 3, 500),
            )
            for page in pages:
                assert [e["run_seq"] for e in page] == list(range(4, 4 + len(page)))
                assert 1 << 20 <= sum(len(json.dumps(e["data"])) for e in page) < (1 << 20) + 61_000
            monkeypatch.setattr(events, "MAX_PAGE_BYTES", 1)
            assert [e["seq"] for e in events.read_stream(session, run.user_id, 3, 500)] == [4]
            assert [e["seq"] for e in events.read_run(session, run.user_id, run.id, 3, 500)] == [4]

    def test_another_users_log_is_empty(self, database: Database, run: Run) -> None:
        with database.user_session("bob") as session:
            assert events.read_stream(session, run.user_id, 0, 10) == []
            assert events.read_run(session, run.user_id, run.id, 0, 10) == []
            assert events.head(session, run.user_id) == 0


def test_publishing_sends_a_user_one_message_in_order(services: Services, run: Run, redis_client: redis.Redis) -> None:
    other = start_run(services, submit_run(services, "bob"))
    stored = store(services.database, *(event(r, n=n) for n in range(3) for r in (run, other)))
    with redis_client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
        subscription.subscribe(services.keys.events("alice"))
        subscription.get_message(timeout=5)
        services.publish(stored)
        message = subscription.get_message(timeout=5)
        assert message is not None
        assert json.loads(message["data"]) == [item.view() for item in stored if item.event.user_id == "alice"]
        services.publish([])
        assert subscription.get_message() is None


def test_what_is_published_comes_in_messages_of_bounded_size(
    services: Services, run: Run, redis_client: redis.Redis
) -> None:
    texts = ["é" * 10_000] * 11 + ["x" * 50_000] * 7 + ["brief"] * 2  # an é has six bytes
    stored = store(services.database, *(event(run, text=text) for text in texts))
    with redis_client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
        subscription.subscribe(services.keys.events("alice"))
        subscription.get_message(timeout=5)
        services.publish(stored)
        views: list[Any] = []
        while len(views) < len(stored):
            message = subscription.get_message(timeout=5)
            assert message is not None
            assert len(message["data"]) <= 256 * 1024
            views += json.loads(message["data"])
        assert views == [item.view() for item in stored]


def test_an_event_above_the_size_of_a_message_is_published_alone(
    services: Services, run: Run, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "MAX_MESSAGE_BYTES", 500)
    stored = store(services.database, event(run), event(run, text="x" * 1000), event(run))
    with redis_client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
        subscription.subscribe(services.keys.events("alice"))
        subscription.get_message(timeout=5)
        services.publish(stored)
        for item in stored:
            message = subscription.get_message(timeout=5)
            assert message is not None
            assert json.loads(message["data"]) == [item.view()]


class Reader(threading.Thread):
    """Follows one user's log as a client does: asks for what is above the last number, and takes it in order."""

    def __init__(self, database: Database, user_id: str, finished: threading.Event) -> None:
        super().__init__()
        self._database = database
        self._user_id = user_id
        self._finished = finished
        self.last = 0
        self.polls = 0
        self.gaps: list[tuple[int, int]] = []

    def run(self) -> None:
        while True:
            was_finished = self._finished.is_set()
            with self._database.user_session(self._user_id) as session:
                query = sa.select(RunEvent.seq).where(RunEvent.seq > self.last).order_by(RunEvent.seq)
                found = session.scalars(query).all()
            self.polls += 1
            for seq in found:
                if seq != self.last + 1:
                    self.gaps.append((self.last, seq))
                self.last = seq
            if was_finished and not found:
                return


def test_numbers_are_gapless_and_in_the_order_of_commits_under_concurrent_writers(services: Services) -> None:
    """Eight writers with random batches over three users; readers never see a gap that fills later.

    Many runs and small batches: writers meet at the users' streams without having met at a run, so that a writer which
    took its locks in an order of its own would end in a deadlock.
    """
    database = services.database
    everything = [start_run(services, submit_run(services, user_id)) for user_id in USERS * RUNS_EACH]
    mine = {user_id: [run for run in everything if run.user_id == user_id] for user_id in USERS}
    finished = threading.Event()
    readers = [Reader(database, user_id, finished) for user_id in USERS]
    written: dict[str, int] = defaultdict(int)
    lock = threading.Lock()

    def write(number: int) -> None:
        choose = random.Random(number)
        for n in range(40):
            if choose.random() < 0.5:  # the event writer of a worker, for all its runs
                batch = [event(choose.choice(everything), by=[number, n, k]) for k in range(choose.randint(2, 5))]
                stored = store(database, *batch)
            else:  # a request of one user
                of_user = mine[choose.choice(USERS)]
                batch = [event(choose.choice(of_user), by=[number, n, k]) for k in range(choose.randint(1, 4))]
                with database.user_session(batch[0].user_id) as session:
                    stored, _ = append(session, batch)
            assert [item.event for item in stored] == batch
            with lock:
                for item in stored:
                    written[item.event.user_id] += 1

    for reader in readers:
        reader.start()
    try:
        in_parallel(8, write)
    finally:
        finished.set()
        for reader in readers:
            reader.join(30)

    for reader, user_id in zip(readers, USERS, strict=True):
        assert reader.gaps == []
        assert reader.last == written[user_id] + 2 * RUNS_EACH  # `run_queued` and `run_started`
        assert reader.polls > 5
    for run in everything:
        log = in_log(database, run)
        assert [item["run_seq"] for item in log] == list(range(1, len(log) + 1))
        # What one writer wrote stands in the order in which it wrote it.
        for number in range(8):
            own = [item["data"]["by"] for item in log if item["data"].get("by", [None])[0] == number]
            assert own == sorted(own)


def test_no_event_follows_the_end_however_close_they_come(services: Services) -> None:
    """Three writers for each run, and one that ends it in the middle of what they write."""
    database = services.database
    mine = [start_run(services, submit_run(services, user_id)) for user_id in USERS * 5]

    def write(number: int) -> None:
        for run in mine:
            if number == 0:
                while len(in_log(database, run)) < 5:
                    pass
                with database.user_session(run.user_id) as session:
                    assert runs.finish(session, run, Completed({}), "worker:w")
            else:
                while store(database, event(run), event(run)):
                    pass

    in_parallel(4, write)
    for run in mine:
        log = in_log(database, run)
        assert [item["run_seq"] for item in log] == list(range(1, len(log) + 1))
        assert [item["type"] for item in log].index("run_completed") == len(log) - 1 >= 5
