"""Has users, nemesis and sampler work on one fleet, waits for rest, and has the checker judge what was recorded."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from lanewise.process import wait_until
from tests import plain
from tests.chaos.agents import MAX_ATTEMPTS, TABLE
from tests.chaos.checker import Violation, check
from tests.chaos.client import Client, Listener
from tests.chaos.customer import Customer
from tests.chaos.dump import dump
from tests.chaos.ending import heads, live_runs, progress, read_final, slots_held
from tests.chaos.faults import Scene
from tests.chaos.history import Fault, History, User
from tests.chaos.nemesis import Nemesis
from tests.chaos.plan import Plan, Verdict
from tests.chaos.sampler import Sampler
from tests.chaos.stores import Stores
from tests.fleet.fleet import Fleet

LEASE_S, SWEEP_S = 3.0, 0.5
LIMITS = (3, 3, 1, 2, 3, 5)  # of the users in turn; 3 is the fleet's own
ADMIN = "chaos-admin"
SETTINGS = {
    "LANEWISE_AGENTS": "tests.chaos.agents",
    "LANEWISE_LEASE_S": f"{LEASE_S:g}",
    "LANEWISE_SWEEP_S": f"{SWEEP_S:g}",
    "LANEWISE_CANCEL_GRACE_S": "0.5",
    "LANEWISE_DRAIN_S": "5",
    "LANEWISE_USER_CONCURRENT_RUNS": "3",
}
CAUGHT_UP_S = 30.0
SETTLED_S = 2 * (LEASE_S + SWEEP_S)


def conduct(plan: Plan, on_fault: Callable[[Fault], None] = lambda _: None) -> Verdict:
    """Makes one run of the part; everything is ended when it returns."""
    began = time.monotonic()
    history = History(MAX_ATTEMPTS, minimum=plan.runs // 2)
    with ExitStack() as stack:
        stores = stack.enter_context(Stores.start())
        fleet = stack.enter_context(_fleet(plan, stores))
        urls = api_urls(fleet)
        _make_users(plan, fleet, history)
        stores.run_script(TABLE)
        plan.prepare(stores)
        scene = Scene(fleet, stores, history, LEASE_S)
        conductor = _Conductor(plan, scene, urls)
        try:
            conductor.run(on_fault)
            history.final = read_final(stores, history)
        finally:
            conductor.close()
        violations = check(history)
        violations += [Violation("ends", "nothing happened for too long")] if conductor.stuck else []
        folder = dump(scene, plan.seed, violations) if violations else None
    return Verdict(plan, history, violations, time.monotonic() - began, folder)


class _Conductor:
    """Has users and nemesis work at the same time, and waits until everything has come to rest."""

    def __init__(self, plan: Plan, scene: Scene, urls: list[str]) -> None:
        self.stuck = False
        self._plan = plan
        self._scene = scene
        self._faults_over = False
        self._given_up = False
        fleet, history = scene.fleet, scene.history
        each = -(-plan.runs // plan.users)
        self._customers = [
            Customer(
                user,
                Client(user, fleet.token(user), urls, history, lambda: self._given_up),
                Listener(user, fleet.token(user), urls[number % len(urls)], history),
                history,
                chance=random.Random(f"{plan.seed} {number}"),
                runs=each,
                pace_s=plan.pace_s,
                over=lambda: self._faults_over,
                given_up=lambda: self._given_up,
            )
            for number, user in enumerate(history.users)
        ]

    def run(self, on_fault: Callable[[Fault], None]) -> None:
        """Returns when everything is at rest, or nothing moves any more."""
        plan, scene = self._plan, self._scene
        nemesis = Nemesis(
            scene,
            plan.seed,
            plan.kinds,
            wanted=plan.faults,
            pause_s=plan.pause_s,
            until=time.monotonic() + plan.nemesis_s,
            tell=on_fault,
        )
        with Sampler(scene.stores, scene.history):
            for customer in self._customers:
                customer.start()
            nemesis.run()
            self._faults_over = True
            self._await_ends()
            self._given_up = True
            if not self.stuck:
                wait_until(self._caught_up, CAUGHT_UP_S)
                wait_until(lambda: not slots_held(scene.stores, list(scene.history.users)), SETTLED_S)

    def close(self) -> None:
        """Ends all threads."""
        self._given_up = True
        for customer in self._customers:
            customer.close()
            customer.listener.close()

    def _await_ends(self) -> None:
        last, since = -1, time.monotonic()
        while not all(customer.done for customer in self._customers) or live_runs(self._scene.stores):
            now = progress(self._scene.stores)
            if now != last:
                last, since = now, time.monotonic()
            elif time.monotonic() - since > self._plan.stuck_s:
                self.stuck = True
                return
            time.sleep(0.25)

    def _caught_up(self) -> bool:
        stored = heads(self._scene.stores)
        streams = self._scene.history.streams
        return all((stream[-1].seq if stream else 0) >= stored.get(user, 0) for user, stream in streams.items())


@contextmanager
def _fleet(plan: Plan, stores: Stores) -> Iterator[Fleet]:
    options = (
        *("--apis", "2", "--workers", "3", "--slots", str(plan.slots), "--no-flower"),
        *("--redis-url", stores.redis_url, "--database-url", stores.database_url),
    )
    env = {**SETTINGS, "LANEWISE_SECRET_KEY": stores.secret_key, **plan.env}
    with Fleet.start(*options, env=env) as fleet:
        yield fleet


def api_urls(fleet: Fleet) -> list[str]:
    """Returns where the apis of a fleet answer."""
    return re.findall(r"^Console\s+(http://[^/\s]+)/", fleet.said(), re.MULTILINE)


def _make_users(plan: Plan, fleet: Fleet, history: History) -> None:
    chance = random.Random(f"users {plan.seed}")
    headers = {"Authorization": f"Bearer {fleet.token(ADMIN, 'admin')}"}
    with plain.client(base_url=fleet.url, headers=headers, timeout=30) as admin:
        for number in range(plan.users):
            limit = LIMITS[number % len(LIMITS)]
            user = f"user-{number:02}"
            history.users[user] = User(limit, f"lwcanary{chance.getrandbits(128):032x}")
            answer = admin.put(f"/v1/admin/users/{user}/limits", json={"concurrent_runs": limit})
            assert answer.is_success, answer.text
