"""Cancel, time limits, deaths: whatever ends, ends in time, and nothing is left of it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from lanewise.process import wait_until
from shared.errors import UnavailableError
from shared.outcomes import Cancelled, Completed, Lost, TimedOut
from tests.integration.worker.conftest import Begin
from tests.sandboxes import PATIENCE_S, REPOSITORY, Attempt, all_gone, descendants, gone, worker_environment
from worker import zygote_client
from worker.walls import account
from worker.zygote_client import SandboxProcess, ZygoteClient

GRACE_S = 0.3
SPAWNED: list[int] = []  # by the present test's agents
DRAINED = Lost("drained", "the worker was shut down", counted=False)


def seconds_to_end(attempt: Attempt, since: float, within_s: float = 5) -> float:
    """Waits until outcome and sandbox are there and gone; returns how long that took."""
    pid = attempt.pid
    attempt.outcome(within_s)
    assert all_gone(pid)
    return time.monotonic() - since


# Cancel


def test_an_async_agent_is_cancelled_at_once(begin: Begin) -> None:
    attempt = begin("wait", grace_s=5)
    attempt.wait_for()
    now = time.monotonic()
    attempt.live.cancel()
    assert seconds_to_end(attempt, now) < 0.5
    assert attempt.outcome() == Cancelled()
    assert attempt.kinds[-1] == "agent_failed"


def test_a_plain_agent_sees_it_and_tidies_up(begin: Begin) -> None:
    attempt = begin("poll", grace_s=5)
    attempt.wait_for()
    now = time.monotonic()
    attempt.live.cancel()
    assert seconds_to_end(attempt, now) < 0.5
    assert attempt.outcome() == Cancelled()
    assert attempt.texts == ["begun", "tidied"]


@pytest.mark.parametrize(
    ("agent", "run_input"), [("block", {"how": "sleep"}), ("block", {"how": "busy"}), ("stubborn", {})]
)
def test_what_does_not_listen_is_dead_within_grace_and_a_second(
    begin: Begin, agent: str, run_input: dict[str, str]
) -> None:
    neighbour = begin("wait")
    attempt = begin(agent, run_input, grace_s=GRACE_S)
    neighbour.wait_for()
    attempt.wait_for()
    now = time.monotonic()
    attempt.live.cancel()
    taken = seconds_to_end(attempt, now)
    assert GRACE_S <= taken < GRACE_S + 1
    assert attempt.outcome() == Cancelled()
    assert not neighbour.sandbox.exited.is_set()


def test_one_that_reads_nothing_is_dead_within_grace_and_a_second_too(begin: Begin) -> None:
    """Its runner cannot tell it anything any more: neither what it asked for, nor that it is to end."""
    answered: list[float] = []

    def answer(method: str, parameters: dict[str, Any]) -> str:
        del method, parameters
        if not answered:
            time.sleep(0.3)  # in which it asks for much more than its socket has room for in answers
        answered.append(time.monotonic())
        return "x" * 100_000

    attempt = begin("deaf", grace_s=GRACE_S, answer=answer)
    assert wait_until(lambda: bool(answered) and time.monotonic() - answered[-1] > 0.3, 5)  # nothing goes any more
    assert 1 < len(answered) < 10  # and the runner does not collect answers that nobody reads
    now = time.monotonic()
    attempt.live.cancel()
    assert GRACE_S <= seconds_to_end(attempt, now) < GRACE_S + 1
    assert attempt.outcome() == Cancelled()


def test_a_run_that_was_faster_than_its_cancel_stays_completed(begin: Begin) -> None:
    attempt = begin("echo")
    outcome = attempt.outcome()
    attempt.live.asked_to_end = Cancelled()
    assert isinstance(outcome, Completed)
    assert isinstance(attempt._supervisor._verdict(outcome), Completed)


def test_whoever_dies_while_it_is_cancelled_is_cancelled(begin: Begin) -> None:
    attempt = begin("block", grace_s=5)
    attempt.wait_for()
    attempt.live.cancel()
    attempt.kill()
    assert attempt.outcome(2) == Cancelled()


# Time limits


@pytest.mark.parametrize("agent", ["wait", "poll"])
def test_an_agent_that_listens_is_timed_out_at_its_limit(begin: Begin, agent: str) -> None:
    now = time.monotonic()
    attempt = begin(agent, time_limit_s=0.3, grace_s=5)
    assert 0.3 <= seconds_to_end(attempt, now) < 0.9
    assert attempt.outcome() == TimedOut(0.3)


def test_one_that_does_not_is_dead_within_grace_and_a_second(begin: Begin) -> None:
    now = time.monotonic()
    attempt = begin("block", {"how": "busy"}, time_limit_s=0.3, grace_s=GRACE_S)
    assert 0.3 + GRACE_S <= seconds_to_end(attempt, now) < 0.3 + GRACE_S + 1
    assert attempt.outcome() == TimedOut(0.3)


def test_what_came_first_is_the_reason(begin: Begin) -> None:
    attempt = begin("block", time_limit_s=0.4, grace_s=0.6)
    attempt.wait_for()
    attempt.live.cancel()
    assert attempt.outcome(3) == Cancelled()


def test_waiting_for_a_blocking_agent_costs_nothing(begin: Begin) -> None:
    attempt = begin("block", time_limit_s=0.2, grace_s=1)
    attempt.wait_for()
    before = time.process_time()
    assert attempt.outcome() == TimedOut(0.2)
    assert time.process_time() - before < 0.3  # of more than a second


def test_a_stopped_sandbox_meets_its_time_limit_too(begin: Begin) -> None:
    attempt = begin("wait", time_limit_s=0.5, grace_s=GRACE_S)
    attempt.wait_for()
    attempt.kill(signal.SIGSTOP)
    pid = attempt.pid
    assert attempt.outcome(3) == TimedOut(0.5)
    assert all_gone(pid)


# Orders that end an attempt at once


@pytest.mark.parametrize("agent", ["wait", "block", "stubborn"])
def test_an_order_to_stop_leaves_nothing_running_beside_the_successor(begin: Begin, agent: str) -> None:
    """When the supervisor says how it ended, so that this can be recorded, the sandbox is dead already."""
    attempt = begin(agent, grace_s=30)
    attempt.wait_for()
    pid = attempt.pid
    now = time.monotonic()
    attempt.live.stop(DRAINED)
    assert wait_until(lambda: attempt.ended_at is not None, 3)
    assert attempt.dead_at_end
    assert seconds_to_end(attempt, now) < 0.5
    assert gone(pid)
    assert attempt.outcome() == DRAINED


def test_a_superseded_attempt_stops_at_once(begin: Begin) -> None:
    attempt = begin("block", grace_s=30)
    attempt.wait_for()
    now = time.monotonic()
    attempt.live.supersede()
    assert seconds_to_end(attempt, now) < 0.5
    outcome = attempt.outcome()
    assert isinstance(outcome, Lost)
    assert (outcome.type, outcome.counted, attempt.live.superseded) == ("superseded", False, True)


# Deaths


def test_the_death_of_a_sandbox_is_noticed_at_once_with_its_signal(begin: Begin) -> None:
    neighbour, attempt = begin("wait"), begin("block")
    neighbour.wait_for()
    attempt.wait_for()
    now = time.monotonic()
    attempt.kill(signal.SIGKILL)
    assert seconds_to_end(attempt, now) < 1
    assert attempt.outcome() == Lost(
        "sandbox_died", "the sandbox was killed by signal 9 (SIGKILL) before it gave a result"
    )
    assert not neighbour.sandbox.exited.is_set()
    assert isinstance(begin("echo").outcome(1), Completed)


def test_the_death_of_the_zygote_ends_its_sandboxes_uncounted_and_the_next_fork_works(
    begin: Begin, own_zygote: ZygoteClient
) -> None:
    attempts = [begin(agent, zygote=own_zygote) for agent in ("wait", "block")]
    for attempt in attempts:
        attempt.wait_for()
    pids = [attempt.pid for attempt in attempts]
    assert own_zygote.pid is not None
    os.kill(own_zygote.pid, signal.SIGKILL)
    for attempt in attempts:
        outcome = attempt.outcome(1.5)
        assert isinstance(outcome, Lost)
        assert (outcome.type, outcome.counted) == ("zygote_died", False)
    assert all_gone(*pids)
    assert isinstance(again(begin, own_zygote).outcome(), Completed)
    assert own_zygote.restarts == 1


def again(begin: Begin, zygote: ZygoteClient) -> Attempt:
    """Begins another run as soon as there is a zygote, as a run that is queued again does."""
    deadline = time.monotonic() + 5
    while True:
        try:
            return begin("echo", zygote=zygote)
        except UnavailableError:
            assert time.monotonic() < deadline


# Descendants


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """Ends what a test that failed has left behind."""
    SPAWNED.clear()
    yield
    for pid in SPAWNED:
        with contextlib.suppress(psutil.NoSuchProcess):
            psutil.Process(pid).kill()


@pytest.mark.parametrize("then", ["return", "die"])
def test_what_a_run_started_is_gone_after_it(begin: Begin, then: str) -> None:
    attempt = begin("spawn", {"then": then})
    outcome = attempt.outcome()
    pids = spawned(attempt)
    assert isinstance(outcome, Completed if then == "return" else Lost)
    assert len(set(pids)) == 3
    assert all_gone(*pids)


def test_what_a_run_started_is_gone_after_its_cancel(begin: Begin) -> None:
    attempt = begin("spawn", {"then": "wait"}, grace_s=GRACE_S)
    pids = spawned(attempt)
    assert not any(map(gone, pids[:2]))
    attempt.live.cancel()
    assert attempt.outcome(3) == Cancelled()
    assert all_gone(*pids)


def test_what_runs_started_is_gone_when_their_zygote_is_stopped(begin: Begin, own_zygote: ZygoteClient) -> None:
    attempt = begin("spawn", {"then": "wait"}, zygote=own_zygote)
    pids = spawned(attempt)
    assert not any(map(gone, pids[:2]))
    own_zygote.stop()
    assert isinstance(attempt.outcome(), Lost)
    assert all_gone(*pids)


def spawned(attempt: Attempt) -> list[int]:
    attempt.wait_for("")
    pids = [int(pid) for pid in attempt.texts[0].split(",")]
    SPAWNED.extend(pids)
    return pids


WORKER = """
    import sys
    from tests.sandboxes import Attempt
    from worker.walls import Confinement
    from worker.zygote_client import ZygoteClient

    zygote = ZygoteClient(Confinement(256))
    zygote.start()
    attempts = [Attempt(zygote, "stubborn", {}), Attempt(zygote, "spawn", {"then": "wait"})]
    attempts[0].wait_for()
    attempts[1].wait_for("")
    print(zygote.pid, attempts[0].pid, attempts[1].pid, *attempts[1].texts[0].split(","), flush=True)
    if sys.stdin.readline():
        zygote.stop()
    sys.stdin.read()
"""


@pytest.fixture
def worker() -> Iterator[subprocess.Popen[str]]:
    """A process that has what a worker has: a zygote, and sandboxes that do not want to end."""
    with worker_environment():
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(WORKER)],
            cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        )  # fmt: skip
    with process:
        yield process
        SPAWNED.extend(descendants(process.pid))
        process.kill()


def below(worker: subprocess.Popen[str]) -> tuple[list[int], Path]:
    """Returns the pids below a worker that is under way, and its zygote's folder."""
    assert worker.stdout is not None
    pids = [int(pid) for pid in worker.stdout.readline().split()]
    SPAWNED.extend(pids)
    assert len(pids) == 6
    assert not any(map(gone, pids[:5]))
    return pids, Path(psutil.Process(pids[0]).environ()["HOME"])


@pytest.mark.parametrize("zygote", ["works", "stands still"])
def test_nothing_outlives_a_worker_that_is_killed(worker: subprocess.Popen[str], zygote: str) -> None:
    pids, folder = below(worker)
    if zygote == "stands still":
        os.kill(pids[0], signal.SIGSTOP)
    worker.kill()
    assert all_gone(*pids)
    assert wait_until(lambda: not folder.exists(), 2)


def test_nothing_outlives_a_worker_that_stops_its_zygote(worker: subprocess.Popen[str]) -> None:
    pids, folder = below(worker)
    assert worker.stdin is not None
    worker.stdin.write("stop\n")
    worker.stdin.flush()
    assert all_gone(*pids)
    assert wait_until(lambda: not folder.exists(), 2)
    assert worker.poll() is None


def test_a_zygote_that_stands_still_is_replaced_when_a_deadline_comes(
    begin: Begin, own_zygote: ZygoteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygote_client, "KILL_TIMEOUT_S", 0.5)
    attempt = begin("block", zygote=own_zygote, time_limit_s=0.5, grace_s=GRACE_S)
    neighbour = begin("wait", zygote=own_zygote)
    attempt.wait_for()
    neighbour.wait_for()
    assert own_zygote.pid is not None
    os.kill(own_zygote.pid, signal.SIGSTOP)
    assert attempt.outcome(6) == TimedOut(0.5)
    assert all_gone(attempt.pid, neighbour.pid)
    outcome = neighbour.outcome()
    assert isinstance(outcome, Lost)
    assert not outcome.counted
    assert isinstance(again(begin, own_zygote).outcome(), Completed)


@pytest.mark.parametrize("alone", [False, True])
def test_nothing_outlives_a_zygote_that_is_killed(begin: Begin, own_zygote: ZygoteClient, *, alone: bool) -> None:
    """When the supervisor hears of it, so that the run may go on elsewhere, all that the run started is gone."""
    attempt = begin("spawn", {"then": "wait", "alone": alone}, zygote=own_zygote)
    pids = [attempt.pid, *spawned(attempt)]
    assert not any(map(gone, pids))
    assert own_zygote.pid is not None
    os.kill(own_zygote.pid, signal.SIGKILL)
    assert isinstance(attempt.outcome(2), Lost)
    assert gone(*pids)


@pytest.mark.skipif(not account.available(), reason="one account for all: who forks faster than it is killed lives on")
@pytest.mark.parametrize("killed", ["zygote", "sandbox"])
def test_not_even_those_that_multiply_outlive_it(begin: Begin, own_zygote: ZygoteClient, killed: str) -> None:
    attempt = begin("multiply", zygote=own_zygote)
    attempt.wait_for()
    uid, neighbour = account.of(attempt.pid), begin("wait", zygote=own_zygote)
    neighbour.wait_for()
    assert uid is not None

    def alive() -> int:
        return sum(account.of(pid) == uid and not gone(pid) for pid in psutil.pids())

    assert wait_until(lambda: alive() > 100, 10)
    pid = {"zygote": own_zygote.pid, "sandbox": attempt.pid}[killed]
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    assert isinstance(attempt.outcome(), Lost)
    assert wait_until(lambda: alive() == 0, 0 if killed == "zygote" else 3)
    assert gone(neighbour.pid) == (killed == "zygote")


def test_a_zygote_that_stands_still_is_ended_however_many_wait_for_it(begin: Begin, own_zygote: ZygoteClient) -> None:
    """Runs past their grace ask for a signal again and again, others for a sandbox; none of them is held up by it."""
    attempts = [begin("block", zygote=own_zygote, time_limit_s=0.3, grace_s=0) for _ in range(3)]
    for attempt in attempts:
        attempt.wait_for()
    first = own_zygote.pid
    assert first is not None
    os.kill(first, signal.SIGSTOP)
    forked: list[SandboxProcess] = []

    def ask() -> bool:
        with contextlib.suppress(UnavailableError):
            forked.append(own_zygote.fork(lambda: None))
        return own_zygote.restarts > 0

    asking = threading.Thread(target=wait_until, args=(ask, 10), daemon=True)
    asking.start()
    try:
        for attempt in attempts:
            assert attempt.outcome(6) == TimedOut(0.3)
        asking.join(6)
        assert not asking.is_alive()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(first, signal.SIGCONT)
        for sandbox in forked:
            sandbox.sock.close()
    assert all_gone(first, *(attempt.pid for attempt in attempts))
    assert [sandbox.zygote_died for sandbox in forked[:3]] == [True] * 3
    assert isinstance(again(begin, own_zygote).outcome(), Completed)


def test_a_zygote_that_forks_nothing_any_more_is_ended_too(
    begin: Begin, own_zygote: ZygoteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygote_client, "FORK_TIMEOUT_S", 0.5)
    assert own_zygote.pid is not None
    os.kill(own_zygote.pid, signal.SIGSTOP)
    forked: list[SandboxProcess] = []

    def ask() -> None:
        with contextlib.suppress(UnavailableError):
            while len(forked) < 1000:
                forked.append(own_zygote.fork(lambda: None))

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(5)
    assert not asking.is_alive()
    assert 0 < len(forked) < 1000  # there is no room for more
    for sandbox in forked:
        assert sandbox.exited.wait(5)
        assert sandbox.zygote_died
        sandbox.sock.close()
    assert isinstance(again(begin, own_zygote).outcome(), Completed)


def test_a_worker_that_does_not_listen_does_not_keep_its_zygote_from_tidying_up(
    begin: Begin, own_zygote: ZygoteClient
) -> None:
    attempt = begin("spawn", {"then": "wait"}, zygote=own_zygote)
    pids = spawned(attempt)
    listens_again = threading.Event()

    def hold_up() -> None:
        listens_again.wait(PATIENCE_S)

    other = own_zygote.fork(hold_up)
    try:
        assert wait_until(lambda: other.pid is not None, 5)
        own_zygote.kill(other)
        assert other.exited.wait(5)  # and whoever would listen is held up now

        def send() -> bool:
            assert own_zygote._zygote is not None
            with contextlib.suppress(BlockingIOError):
                own_zygote._zygote.send({"op": "kill", "id": 0, "signal": 0})
                return True
            return False

        for _ in range(1000):  # many more answers than there is room for
            assert wait_until(send, 2)
        attempt.kill()
        assert all_gone(*pids)
    finally:
        listens_again.set()
        other.sock.close()
    assert isinstance(attempt.outcome(), Lost)
    assert isinstance(begin("echo", zygote=own_zygote).outcome(), Completed)


def test_a_killed_keeper_takes_its_zygote_with_it(begin: Begin, own_zygote: ZygoteClient) -> None:
    attempt = begin("wait", zygote=own_zygote)
    attempt.wait_for()
    zygote = psutil.Process(own_zygote.pid)
    os.kill(zygote.ppid(), signal.SIGKILL)
    assert isinstance(attempt.outcome(2), Lost)
    assert all_gone(zygote.pid, attempt.pid)
    assert isinstance(again(begin, own_zygote).outcome(), Completed)


def test_a_keeper_that_stands_still_too_does_it_all_the_same(
    begin: Begin, own_zygote: ZygoteClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zygote_client, "KILL_TIMEOUT_S", 0.5)
    attempt = begin("block", zygote=own_zygote, time_limit_s=0.3, grace_s=0)
    attempt.wait_for()
    zygote = psutil.Process(own_zygote.pid)
    for pid in (zygote.ppid(), zygote.pid):
        os.kill(pid, signal.SIGSTOP)
    assert attempt.outcome(6) == TimedOut(0.3)
    assert all_gone(zygote.pid, attempt.pid)
    assert isinstance(again(begin, own_zygote).outcome(), Completed)


def test_the_end_of_another_run_leaves_what_this_one_has_started_and_forgotten(begin: Begin) -> None:
    attempt = begin("spawn", {"then": "wait"})
    pids = spawned(attempt)
    neighbour = begin("echo")
    assert isinstance(neighbour.outcome(), Completed)
    neighbour.end()
    assert [gone(pid) for pid in pids] == [False] * len(pids)
