"""A rolling restart under load: no run fails, none is lost, none is done twice, no submission gets lost."""

from __future__ import annotations

import re
import signal
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Self

import httpx
import psutil
import pytest
import sqlalchemy as sa

from lanewise import Client
from shared.models import Worker
from shared.states import ENDS
from tests import plain
from tests.fleet.fleet import READY_S, WAIT_S, Fleet, Run, new_user, until

USERS = 4
# About half of the twelve slots are busy at any moment: whichever worker is asked to end has runs under way, and the
# others have room for what it leaves. More load would only slow down what is restarted.
RUN_S = 0.6
BETWEEN_S = 0.4
AT_LEAST = 6  # runs of each user while processes are restarted


@pytest.fixture(scope="module")
def rolling() -> Iterator[Fleet]:
    with Fleet.start("--apis", "2", "--workers", "3", "--slots", "4", "--no-flower") as running:
        yield running


class Load:
    """Users who submit one run after the other, each at an api of its own, until told to stop.

    Args:
        folder: where each attempt of a run leaves a line.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self._fleet = fleet
        self._folder = folder
        self._stop = threading.Event()
        self._raised: list[BaseException] = []
        self.users = [new_user(f"rolling{number}") for number in range(USERS)]
        self.runs: dict[str, list[str]] = {user: [] for user in self.users}

    def __enter__(self) -> Self:
        urls = re.findall(r"Console\s+(http://\S+?)/ ", self._fleet.said())
        assert len(urls) == 2
        self._threads = [
            threading.Thread(target=self._submit, args=(user, urls[number % 2]), daemon=True)
            for number, user in enumerate(self.users)
        ]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(60)
            assert not thread.is_alive()
        if self._raised:
            raise self._raised[0]

    def _submit(self, user: str, url: str) -> None:
        try:
            with closing(Client(url, self._fleet.token(user))) as client:
                while not self._stop.wait(BETWEEN_S):
                    run = client.submit("tally", {"folder": str(self._folder), "seconds": RUN_S})
                    self.runs[user].append(run["id"])
        except BaseException as error:  # noqa: BLE001 - raised again where the test waits
            self._raised.append(error)

    def await_more(self) -> None:
        """Waits until each user has had some more runs accepted."""
        before = {user: len(made) for user, made in self.runs.items()}
        until(
            lambda: all(len(made) >= before[user] + AT_LEAST for user, made in self.runs.items()) or self._raised,
            30, "more submissions",
        )  # fmt: skip

    def _await_ends(self, user: str) -> list[Run]:
        def ended() -> list[Run] | None:
            listed = list(self._fleet.client(user).runs())
            return listed if all(run["status"] in ENDS for run in listed) else None

        return until(ended, WAIT_S, f"the ends of the runs of {user}")

    def check(self) -> None:
        """Every accepted run completed, in its first attempt, once; and no user has a run besides."""
        for user, made in self.runs.items():
            assert len(made) >= AT_LEAST
            listed = self._await_ends(user)
            assert {(run["status"], run["attempt"]) for run in listed} == {("completed", 1)}
            assert Counter((self._folder / run_id).read_text() for run_id in made) == {"begun\n": len(made)}
            assert {run["id"] for run in listed} == set(made)
            assert len(listed) == len(made)


def restart(fleet: Fleet, process: psutil.Process, kind: str) -> psutil.Process:
    """Asks a process to end, as a deployment does; returns the one that is there in its place, once it is."""
    known = set(fleet.processes()[kind])
    process.send_signal(signal.SIGTERM)
    until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE, 20, f"the end of a {kind}")
    (successor,) = until(lambda: set(fleet.processes().get(kind, ())) - known, READY_S, f"another {kind}")
    return successor


def await_work(fleet: Fleet, worker: psutil.Process) -> None:
    """Waits until a worker takes runs, as a deployment does before it goes on with the next."""

    def announced() -> bool:
        with fleet.services.database.system_session() as session:
            names = session.scalars(sa.select(Worker.name).where(~Worker.draining)).all()
        return any(name.endswith(f":{worker.pid}") for name in names)

    until(announced, READY_S, f"the work of {worker}")


def test_workers_restarted_one_by_one_fail_and_repeat_nothing(rolling: Fleet, tmp_path: Path) -> None:
    with Load(rolling, tmp_path) as load:
        load.await_more()
        for worker in rolling.processes()["worker"]:
            await_work(rolling, restart(rolling, worker, "worker"))
            load.await_more()
    load.check()


def test_apis_restarted_one_by_one_lose_no_submission(rolling: Fleet, tmp_path: Path) -> None:
    with Load(rolling, tmp_path) as load:
        load.await_more()
        for api in rolling.processes()["api"]:
            restart(rolling, api, "api")
            load.await_more()
    load.check()


def test_a_request_in_flight_is_answered_before_its_api_ends(rolling: Fleet) -> None:
    user = new_user()
    run = rolling.submit(user, "hold", {"seconds": 2})
    answers: list[httpx.Response] = []

    def wait() -> None:
        answers.append(rolling.http(user).get(f"/v1/runs/{run['id']}/wait", params={"timeout_s": 30}))

    waiting = threading.Thread(target=wait)
    waiting.start()
    until(lambda: "lanewise_waiting_requests 1.0" in plain.get(f"{rolling.url}/metrics").text, 5, "the request waits")
    for api in rolling.processes()["api"]:
        api.send_signal(signal.SIGTERM)
    waiting.join(20)
    assert [answer.status_code for answer in answers] == [200]
    rolling.await_ready()
    assert rolling.wait(user, run["id"])["attempt"] == 1
