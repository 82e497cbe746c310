"""From the order to end until nothing is left, as the system and Postgres see it; neighbours notice nothing."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa

from lanewise.process import wait_until
from tests.fleet.fleet import QUICK, Fleet, Run, new_user, until
from tests.sandboxes import session_activity

GRACE_S = float(QUICK["LANEWISE_CANCEL_GRACE_S"])
STOPPED_S = GRACE_S + 1  # grace, what is between SIGTERM and SIGKILL, and what the machine takes
COOPERATIVE_S = 0.5
DATABASE = {"query", "busy query", "lock wait", "idle", "inherited"}
# Those that only wait do so beside one another; who takes a processor takes it alone, for the bounds are ours, not the
# machine's.
TOGETHER = (("sleep", "stopped", "child", "daemon"), ("query", "lock wait", "idle", "inherited"), ("c call",),
            ("busy query",))  # fmt: skip


@dataclass
class Traces:
    """What the operating system and Postgres know of a run."""

    processes: list[psutil.Process]
    session: int | None
    superuser: sa.Connection

    def left(self) -> list[str]:
        """Names what is still there."""
        found = [str(process) for process in self.processes if alive(process)]
        query = sa.text("SELECT query FROM pg_stat_activity WHERE pid = :pid")
        return found + list(self.superuser.scalars(query, {"pid": self.session}))


def alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(scope="module")
def superuser(fleet: Fleet) -> Iterator[sa.Connection]:
    """A connection that sees every session; another one holds the lock that "lock wait" waits for."""
    engine = fleet.superuser()
    with engine.connect() as connection, engine.connect() as holder:
        holder.execute(sa.text("BEGIN; LOCK TABLE lanewise.document_passages"))
        yield connection


@pytest.fixture
def neighbour(fleet: Fleet, user: str, superuser: sa.Connection, tmp_path: Path) -> Iterator[None]:
    """Two runs beside, the user's own and a stranger's in its database: each keeps its process and its only attempt."""
    stranger, gate = new_user(), tmp_path / "gate"
    held = fleet.submit(user, "hold", {"gate": str(gate)})
    pid = fleet.pid(user, held["id"])
    asleep = fleet.submit(stranger, "endless", {"how": "query"})
    beside = traces(fleet, stranger, asleep, superuser)
    yield
    assert alive(psutil.Process(pid))
    assert len(beside.left()) == len(beside.processes) + 1
    gate.touch()
    assert fleet.wait(user, held["id"])["attempt"] == 1
    assert fleet.run(stranger, asleep["id"])["attempt"] == 1
    assert fleet.pid(stranger, asleep["id"]) == beside.processes[0].pid
    fleet.client(stranger).cancel(asleep["id"])
    fleet.wait(stranger, asleep["id"], "cancelled")


def traces(fleet: Fleet, user: str, run: Run, superuser: sa.Connection) -> Traces:
    """Waits until a run of `endless` or `polite` does what it does for ever, and returns what there is of it."""
    texts = [fleet.event(user, run["id"], "agent_thinking")["data"]["text"]]
    if run["agent"] == "endless":
        fleet.event(user, run["id"], "agent_token")
        texts = [e["data"]["text"] for e in fleet.events(user, run["id"]) if e["type"] == "agent_thinking"]
    more = json.loads(texts[1]) if len(texts) > 1 else {"children": [], "session": None}
    pids = [int(texts[0].removeprefix("pid ")), *more["children"]]
    if session := more["session"]:
        until(lambda: session_activity(session) not in {"", "idle"}, 5, "a statement under way")
    return Traces([psutil.Process(pid) for pid in pids], more["session"], superuser)


def await_nothing_left(*found: Traces) -> list[float]:
    """Returns for each run the moment at which nothing of it was left."""
    moments: dict[int, float] = {}

    def look() -> bool:
        for number, traces in enumerate(found):
            if number not in moments and not traces.left():
                moments[number] = time.monotonic()
        return len(moments) == len(found)

    try:
        assert wait_until(look, 10), [traces.left() for traces in found]
        return [moments[number] for number in range(len(found))]
    finally:
        for process in (process for traces in found for process in traces.processes):
            with suppress(psutil.NoSuchProcess):
                process.kill()


def order(fleet: Fleet, user: str, run: Run) -> float:
    """Cancels; returns the moment just before."""
    now = time.monotonic()
    assert fleet.http(user).post(f"/v1/runs/{run['id']}/cancel").status_code == 202
    return now


@pytest.mark.usefixtures("neighbour")
def test_who_cooperates_is_stopped_at_once(fleet: Fleet, user: str, superuser: sa.Connection) -> None:
    run = fleet.submit(user, "polite")
    found = traces(fleet, user, run, superuser)
    ordered = order(fleet, user, run)
    assert await_nothing_left(found)[0] - ordered < COOPERATIVE_S
    assert fleet.wait(user, run["id"], "cancelled")["attempt"] == 1


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("ways", TOGETHER, ids=", ".join)
def test_whatever_does_not_is_stopped_within_grace_and_a_second(
    fleet: Fleet, superuser: sa.Connection, ways: tuple[str, ...]
) -> None:
    runs = {new_user(): how for how in ways}
    begun = {user: fleet.submit(user, "endless", {"how": how}) for user, how in runs.items()}
    found = {user: traces(fleet, user, run, superuser) for user, run in begun.items()}
    for user, how in runs.items():
        assert (len(found[user].processes), found[user].session is not None) == (
            2 if how in {"child", "daemon", "inherited"} else 1, how in DATABASE,
        )  # fmt: skip
        assert all(map(alive, found[user].processes))
    ordered = {user: order(fleet, user, run) for user, run in begun.items()}
    stopped = dict(zip(begun, await_nothing_left(*found.values()), strict=True))
    took_s = {runs[user]: stopped[user] - ordered[user] for user in begun}
    assert all(GRACE_S <= each < STOPPED_S for each in took_s.values()), took_s
    for user, run in begun.items():
        assert fleet.wait(user, run["id"], "cancelled", 2)["attempt"] == 1


@pytest.mark.usefixtures("neighbour")
@pytest.mark.parametrize("how", ["c call", "stopped", "daemon", "query"])
def test_a_time_limit_stops_it_likewise(fleet: Fleet, user: str, superuser: sa.Connection, how: str) -> None:
    limit_s = 2.0
    submitted = time.monotonic()
    run = fleet.submit(user, "endless", {"how": how}, time_limit_s=limit_s)
    fleet.event(user, run["id"], "run_started")
    started = time.monotonic()  # a little later than it was
    found = traces(fleet, user, run, superuser)
    (stopped,) = await_nothing_left(found)
    assert stopped - submitted >= limit_s + GRACE_S
    assert stopped - started < limit_s + STOPPED_S
    assert fleet.wait(user, run["id"], "timed_out", 2)["attempt"] == 1


@pytest.mark.usefixtures("neighbour")
def test_a_sandbox_killed_from_outside_leaves_no_session(fleet: Fleet, user: str, superuser: sa.Connection) -> None:
    run = fleet.submit(user, "endless", {"how": "query"})
    found = traces(fleet, user, run, superuser)
    killed = time.monotonic()
    found.processes[0].kill()
    assert await_nothing_left(found)[0] - killed < 1
    assert fleet.wait(user, run["id"], "failed")["error"]["type"] == "sandbox_died"
