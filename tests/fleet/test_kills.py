"""The end of each process of a fleet: what was accepted goes on to its end, and the others hardly notice."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import httpx
import psutil
import pytest

from tests.fleet.fleet import Event, Fleet, Run, new_user, until

NOTICED_S = 1.0
TERMINAL = {"run_completed", "run_failed", "run_cancelled", "run_timed_out"}


@pytest.fixture(scope="module")
def mortal() -> Iterator[Fleet]:
    """A fleet to kill parts of."""
    with Fleet.start("--slots", "8", "--no-flower", env={"LANEWISE_DRAIN_S": "1"}) as running:
        yield running


@pytest.fixture(autouse=True)
def _ready(mortal: Fleet) -> None:
    mortal.await_ready()


@pytest.fixture
def gate(tmp_path: Path) -> Iterator[Path]:
    """A file that does not exist yet: `hold` waits for it. At the end nobody is left waiting."""
    path = tmp_path / "gate"
    yield path
    path.touch()


def check_log(fleet: Fleet, user: str, run: Run) -> list[Event]:
    """Gapless numbers, one end, and it is the last; returns the events."""
    events = fleet.events(user, run["id"])
    assert [event["run_seq"] for event in events] == list(range(1, len(events) + 1))
    assert [event["type"] for event in events if event["type"] in TERMINAL] == [events[-1]["type"]]
    return events


def kill_and_note(pid: int) -> float:
    """Sends SIGKILL; returns the time just before."""
    now = time.time()
    psutil.Process(pid).kill()
    return now


def seconds_after(moment: float, event: Event) -> float:
    return datetime.fromisoformat(event["at"]).timestamp() - moment


class Follower:
    """Keeps the events that our client's stream hands out meanwhile."""

    def __init__(self, fleet: Fleet, user: str) -> None:
        self.events: list[Event] = []
        self.stream = fleet.client(user).stream(after=0).open()
        self._thread = threading.Thread(target=self._follow)

    def _follow(self) -> None:
        for event in self.stream:
            self.events.append(event)

    @classmethod
    @contextmanager
    def of(cls, fleet: Fleet, user: str) -> Iterator[Follower]:
        """Follows until the end of the block."""
        follower = cls(fleet, user)
        follower._thread.start()
        try:
            yield follower
        finally:
            follower.stream.close()
            follower._thread.join()

    def await_end(self, run: Run, timeout_s: float = 20) -> Event:
        """Returns the run's last event once it has come over the stream."""

        def look() -> Event | None:
            mine = [event for event in self.events if event["run_id"] == run["id"]]
            return next((event for event in mine if event["type"] in TERMINAL), None)

        return until(look, timeout_s, lambda: f"the end of {run['id']} in {self.events}")

    def check_seqs(self) -> None:
        assert [event["seq"] for event in self.events] == list(range(1, len(self.events) + 1))


def test_a_killed_sandbox_ends_its_run_within_a_second_and_nobody_elses(mortal: Fleet, user: str, gate: Path) -> None:
    neighbour = new_user()
    beside = [(user, mortal.submit(user, "hold", {"gate": str(gate)})) for _ in range(2)]
    beside.append((neighbour, mortal.submit(neighbour, "mortal", {"gate": str(gate)})))
    for owner, run in beside:
        mortal.pid(owner, run["id"])
    with Follower.of(mortal, user) as follower:
        victim = mortal.submit(user, "mortal", {"gate": str(gate)})
        pid = mortal.pid(user, victim["id"])
        waiting = mortal.submit(user, "talk", {"text": "next"})
        assert waiting["queue"]["position"] == 1
        killed = kill_and_note(pid)
        ending = follower.await_end(victim)
        assert time.time() - killed < NOTICED_S
        assert seconds_after(killed, ending) < NOTICED_S
        assert follower.await_end(waiting)["type"] == "run_completed"
        follower.check_seqs()
    assert ending["type"] == "run_failed"
    assert mortal.run(user, victim["id"])["error"] == ending["data"]["error"] == {
        "type": "sandbox_died", "attempt": 1, "retryable": True,
        "message": "the sandbox was killed by signal 9 (SIGKILL) before it gave a result; "
        "the run has used its only attempt",
    }  # fmt: skip
    check_log(mortal, user, victim)
    assert seconds_after(killed, mortal.event(user, waiting["id"], "run_started")) < NOTICED_S
    gate.touch()
    for owner, run in beside:
        assert mortal.wait(owner, run["id"])["attempt"] == 1


def test_a_run_with_attempts_left_goes_on_in_a_new_sandbox(mortal: Fleet, user: str, gate: Path) -> None:
    run = mortal.submit(user, "hold", {"gate": str(gate)})
    killed = kill_and_note(mortal.pid(user, run["id"]))
    recovering = mortal.event(user, run["id"], "run_recovering")
    assert seconds_after(killed, recovering) < NOTICED_S
    assert recovering["data"]["reason"] == "sandbox_died"
    gate.touch()
    assert mortal.wait(user, run["id"])["attempt"] == 2
    starts = [event for event in check_log(mortal, user, run) if event["type"] == "run_started"]
    assert [event["attempt"] for event in starts] == [1, 2]
    assert seconds_after(killed, starts[1]) < NOTICED_S


def test_the_run_after_a_killed_zygote_works(mortal: Fleet, user: str, gate: Path) -> None:
    run = mortal.submit(user, "mortal", {"gate": str(gate)})
    sandbox = mortal.pid(user, run["id"])
    mortal.kill("zygote")
    until(lambda: not psutil.pid_exists(sandbox), 2, "its sandboxes end with it")
    assert mortal.wait(user, mortal.submit(user, "talk", {"text": "next"})["id"])["attempt"] == 1
    gate.touch()
    # The only attempt that `mortal` has is not used up by a death that was not its own.
    assert mortal.wait(user, run["id"])["attempt"] == 2
    assert "zygote_died" in [event["data"].get("reason") for event in check_log(mortal, user, run)]


@pytest.mark.parametrize("kind", ["api.worker", "api"])
def test_a_killed_api_comes_back_and_streams_resume(mortal: Fleet, user: str, gate: Path, kind: str) -> None:
    run = mortal.submit(user, "hold", {"gate": str(gate)})
    mortal.pid(user, run["id"])
    before = mortal.process("api.worker")
    with Follower.of(mortal, user) as follower:
        mortal.kill(kind)
        during = mortal.client(user).submit("talk", {"text": "whoever answers"})
        until(lambda: mortal.process("api.worker") != before and not before.is_running(), 10, "another api")
        after = mortal.client(user).submit("talk", {"text": "the next one"})
        gate.touch()
        for each in (run, during, after):
            assert follower.await_end(each)["type"] == "run_completed"
        assert follower.stream.connections > 1
        follower.check_seqs()
    assert mortal.run(user, run["id"])["attempt"] == 1


def test_runs_of_a_killed_worker_go_on_in_the_next(mortal: Fleet, user: str, gate: Path) -> None:
    before = mortal.process("worker")
    runs = [mortal.submit(user, "hold", {"gate": str(gate)}) for _ in range(4)]
    pids = [mortal.pid(user, run["id"]) for run in runs[:3]]
    mortal.kill("worker")
    until(lambda: not any(map(psutil.pid_exists, pids)), 2, "its sandboxes end with it")
    gate.touch()
    ended = [mortal.wait(user, run["id"], timeout_s=30) for run in runs]
    assert [run["attempt"] for run in ended] == [2, 2, 2, 1]
    for run in runs:
        check_log(mortal, user, run)
    assert mortal.process("worker") != before
    until(lambda: mortal.client(user).me()["slots_held"] == 0, 10, "no slot is left behind")


def test_without_redis_runs_are_taken_and_go_on(mortal: Fleet, user: str, gate: Path) -> None:
    http = mortal.http(user)
    under_way = mortal.submit(user, "hold", {"gate": str(gate)})
    mortal.pid(user, under_way["id"])
    with Follower.of(mortal, user) as follower:
        mortal.kill("redis")
        taken = [mortal.submit(user, "talk", {"text": str(n)}) for n in range(4)]
        gate.touch()
        for run in (under_way, *taken):
            assert follower.await_end(run, 30)["type"] == "run_completed"
        follower.check_seqs()
    assert mortal.run(user, under_way["id"])["attempt"] == 1
    assert http.get("/v1/me").json()["queued"] == 0
    until(lambda: http.get("/v1/me").json()["slots_held"] == 0, 10, "no slot is left behind")


def test_without_postgres_nothing_is_taken_and_nothing_accepted_is_lost(mortal: Fleet, user: str, gate: Path) -> None:
    under_way = mortal.submit(user, "hold", {"gate": str(gate)})
    mortal.pid(user, under_way["id"])
    waiting = [mortal.submit(user, "talk", {"text": str(n)}) for n in range(4)]
    refusals: list[httpx.Response] = []

    def refused() -> bool:
        answer = mortal.http(user).post("/v1/runs", json={"agent": "talk", "input": {"text": "x"}})
        if answer.status_code == 202:
            waiting.append(answer.json())
        else:
            refusals.append(answer)
        return answer.status_code != 202

    with Follower.of(mortal, user) as follower:
        mortal.kill("postgres")
        until(refused, 5, "a refusal")
        gate.touch()
        mortal.await_ready()
        for run in (under_way, *waiting):
            assert follower.await_end(run, 30)["type"] == "run_completed"
            check_log(mortal, user, run)
        follower.check_seqs()
    for answer in refusals:
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert float(answer.headers["Retry-After"]) > 0
    known = {run["id"] for run in mortal.client(user).runs()}
    assert known == {run["id"] for run in (under_way, *waiting)}


def test_an_agents_steps_wait_for_postgres_and_none_is_done_twice(mortal: Fleet, user: str, gate: Path) -> None:
    run = mortal.submit(user, "climb", {"gate": str(gate)})
    mortal.event(user, run["id"], "agent_progress")
    mortal.kill("postgres")
    mortal.await_ready()
    after = mortal.run(user, run["id"])["progress"]["note"]

    def goes_on() -> bool:  # in the attempt that there is now: one that has just been handed back did its steps before
        now = mortal.run(user, run["id"])
        steps = [event for event in mortal.events(user, run["id"]) if event["type"] == "agent_progress"]
        return bool(now["progress"]["note"] != after and steps[-1]["attempt"] == now["attempt"])

    until(goes_on, 20, "the steps go on")
    gate.touch()
    ended = mortal.wait(user, run["id"])
    assert ended["attempt"] <= 2  # an outage longer than a lease hands the run back, uncounted
    assert ended["output"]["steps"] == ended["output"]["remembered"] > 1
    check_log(mortal, user, run)


def test_after_an_orderly_end_everything_goes_on_with_the_next_start(mortal: Fleet, user: str, gate: Path) -> None:
    held = [mortal.submit(user, "mortal", {"gate": str(gate)}) for _ in range(3)]
    for run in held:
        mortal.pid(user, run["id"])
    parked = mortal.submit(user, "talk", {"text": "later"})
    mortal.stop_and_start()
    gate.touch()
    assert [mortal.wait(user, run["id"])["attempt"] for run in (*held, parked)] == [2, 2, 2, 1]
    for run in (*held, parked):
        events = check_log(mortal, user, run)
        reasons = [event["data"]["reason"] for event in events if event["type"] == "run_recovering"]
        assert reasons == ([] if run is parked else ["drained"])
