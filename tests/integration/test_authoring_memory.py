"""What runs keep without a fleet behaves as what Redis and Postgres keep: the same tests for both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

import lanewise.authoring.memory
import worker.records
from lanewise.authoring.memory import Memory, MemoryRecords, UserValues
from lanewise.process import wait_until
from shared.errors import QuotaError, StateConflictError
from shared.ids import new_id
from shared.models import Run
from shared.records import MAX_ARTIFACTS, MAX_ARTIFACTS_BYTES, MAX_STEPS
from tests.services import start_run, submit_run
from worker.interfaces import RedisManager, RunRecords
from worker.records import PostgresRecords, UserStore


@dataclass
class Home:
    """Where runs keep things.

    Args:
        begin: a run of a user, in a new thread or a given one.
    """

    begin: Callable[..., Run]
    store: Callable[[Run], RedisManager]
    records: Callable[[Run], RunRecords]


@pytest.fixture(params=["memory", "stores"])
def home(request: pytest.FixtureRequest) -> Home:
    if request.param == "memory":
        memory = Memory()
        return Home(a_run, lambda run: UserValues(memory, run.user_id), lambda run: MemoryRecords(memory, run))
    services = request.getfixturevalue("services")
    return Home(
        lambda user_id="alice", thread_id=None: start_run(services, submit_run(services, user_id, thread_id=thread_id)),
        lambda run: UserStore(services, run),
        lambda run: PostgresRecords(services, run),
    )


def a_run(user_id: str = "alice", thread_id: str | None = None) -> Run:
    return Run(user_id=user_id, id=new_id(), thread_id=thread_id or new_id(), attempt=1)


def test_both_are_what_is_asked_for(home: Home) -> None:
    run = home.begin()
    assert isinstance(home.store(run), RedisManager)
    assert isinstance(home.records(run), RunRecords)


@pytest.mark.parametrize("result", [None, 1, "1", [], {"ä": [1.5, None, True]}])
def test_a_step_is_recorded_once_and_stays(home: Home, result: Any) -> None:
    records = home.records(home.begin())
    assert records.load_step("a") == []
    assert records.record_step("a", result) is True
    assert records.record_step("a", result) is False
    assert records.record_step("a", "another") is False
    assert records.load_step("a") == [result]
    assert records.load_step("b") == []


def test_what_an_agent_goes_on_changing_is_not_changed_here(home: Home) -> None:
    records = home.records(home.begin())
    result = ["first"]
    records.record_step("a", result)
    records.save_state("agent", "run", 0, result, "t")
    result.append("second")
    records.load_step("a")[0].append("third")
    assert records.load_step("a") == [["first"]]
    assert records.load_state("agent", "run") == (1, ["first"])


def test_the_steps_of_a_run_are_its_own(home: Home) -> None:
    run = home.begin()
    home.records(run).record_step("a", 1)
    assert home.records(home.begin(thread_id=run.thread_id)).load_step("a") == []


def test_a_run_has_a_thousand_steps_at_most(home: Home) -> None:
    records = home.records(home.begin())
    for number in range(MAX_STEPS):
        assert records.record_step(f"step {number}", None)
    with pytest.raises(QuotaError, match="1,000"):
        records.record_step("one more", None)


def test_the_results_of_steps_are_limited_together(home: Home) -> None:
    records = home.records(home.begin())
    for number in range(4):
        assert records.record_step(f"step {number}", "x" * (16 * 1024 * 1024 - 2))
    with pytest.raises(QuotaError):
        records.record_step("one more", None)


def test_state_goes_from_version_to_version(home: Home) -> None:
    records = home.records(home.begin())
    assert records.load_state("agent", "thread") == (0, None)
    assert records.save_state("agent", "thread", 0, {"n": 1}, "t") == 1
    assert records.save_state("agent", "thread", 1, {"n": 2}, "t") == 2
    for expected in (0, 1, 3):
        with pytest.raises(StateConflictError, match="'agent'"):
            records.save_state("agent", "thread", expected, "other", "another")
    assert records.save_state("agent", "thread", 1, {"n": 2}, "t") == 2  # once more, because its answer got lost
    assert records.load_state("agent", "thread") == (2, {"n": 2})


def test_state_is_shared_by_the_runs_of_a_thread_and_by_nobody_else(home: Home) -> None:
    first = home.begin("alice")
    second = home.begin("alice", thread_id=first.thread_id)
    home.records(first).save_state("agent", "thread", 0, "remembered", "t")
    home.records(first).save_state("agent", "run", 0, "of this run", "t")
    assert home.records(second).load_state("agent", "thread") == (1, "remembered")
    assert home.records(second).load_state("agent", "run") == (0, None)
    assert home.records(second).load_state("other", "thread") == (0, None)
    assert home.records(home.begin("alice")).load_state("agent", "thread") == (0, None)
    assert home.records(home.begin("bob")).load_state("agent", "thread") == (0, None)


def test_artifacts_are_limited_in_number_and_replaced_by_name(home: Home) -> None:
    records = home.records(home.begin())
    for number in range(MAX_ARTIFACTS):
        records.save_artifact(f"{number}.txt", "text/plain", b"x")
    records.save_artifact("0.txt", "text/plain", b"y")
    with pytest.raises(QuotaError, match="32 artifacts"):
        records.save_artifact("more.txt", "text/plain", b"x")


def test_artifacts_are_limited_in_size(home: Home) -> None:
    records = home.records(home.begin())
    quarter = b"x" * (MAX_ARTIFACTS_BYTES // 4)
    for number in range(4):
        records.save_artifact(f"{number}.bin", "application/octet-stream", quarter)
    records.save_artifact("0.bin", "application/octet-stream", quarter)  # in the place of the first
    with pytest.raises(QuotaError, match=str(MAX_ARTIFACTS_BYTES)):
        records.save_artifact("more.bin", "application/octet-stream", b"x")


def test_values_are_the_users_over_all_runs(home: Home) -> None:
    run = home.begin("alice")
    home.store(run).set("a", {"n": [1]}, 60)
    assert home.store(home.begin("alice")).get("a") == {"n": [1]}
    assert home.store(home.begin("bob")).get("a") is None
    assert home.store(run).get("b") is None
    home.store(run).set("a", None, 60)
    assert home.store(run).get("a") is None


def test_a_user_keeps_so_many_values_and_no_more(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (worker.records, lanewise.authoring.memory):
        monkeypatch.setattr(module, "MAX_VALUES", 3)
    store = home.store(home.begin("alice"))
    for key in "abc":
        store.set(key, key, 60)
    with pytest.raises(QuotaError, match="values"):
        home.store(home.begin("alice")).set("d", "d", 60)
    assert store.get("d") is None
    store.set("a", "again", 0.001)  # in place of one that there is; and soon it is none
    home.store(home.begin("bob")).set("d", "d", 60)

    def has_place() -> bool:
        try:
            store.set("d", "d", 60)
        except QuotaError:
            return False
        return True

    assert wait_until(has_place, 2)
    assert [store.get(key) for key in "abcd"] == [None, "b", "c", "d"]


def test_a_value_is_gone_when_its_time_is_up() -> None:
    now = [100.0]
    store = UserValues(Memory(clock=lambda: now[0]), "alice")
    store.set("a", 1, 5)
    now[0] = 104.9
    assert store.get("a") == 1
    now[0] = 105.0
    assert store.get("a") is None


def test_usage_adds_up() -> None:
    memory, run = Memory(), a_run()
    for _ in range(2):
        MemoryRecords(memory, run).add_usage("a-model", 10, 3)
    expected = {"model": "a-model", "requests": 2, "input_tokens": 20, "output_tokens": 6}
    assert memory.usage == {(run.user_id, run.id): expected}
