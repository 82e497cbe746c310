"""What clients leave behind that come and go in every bad way: nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import psutil
import pytest
import redis
import sqlalchemy as sa

from benchmarks.visitors import GREENLETS_PATH, QUICK, Gateway, churn
from lanewise.process import wait_until
from tests.api_process import metric
from tests.integration.api.conftest import Fleet, make_fleet
from tests.services import Servers

USERS = 20
VISITS = 300
VISITORS = 12  # at once
OTHERS = 5  # that use the stores: the subscription, the sweep, our requests
BACK_S = 20.0  # a channel lingers for a second here, and is looked at every 2 s


class Held(NamedTuple):
    """What an api process holds."""

    sockets: float
    channels: float
    subscriptions: int
    greenlets: int
    descriptors: int  # but for those of pools of connections to Redis and Postgres


@pytest.fixture
def counted(servers: Servers, tmp_path: Path) -> Iterator[Fleet]:
    with make_fleet(servers, tmp_path / "api.log", app="tests.hasty_counted_api:app") as made:
        yield made


def test_churn_leaves_nothing_behind(counted: Fleet, redis_client: redis.Redis) -> None:
    server, worker = counted.server, counted.worker
    users = [f"user-{number}" for number in range(USERS)]
    url = httpx.URL(server.url)
    gateway = Gateway((url.host, url.port or 0), [server.token(user) for user in users])
    (process,) = psutil.Process(server.process.pid).children()
    stores = {
        sa.make_url(url.get_secret_value()).port for url in (counted.settings.redis_url, counted.settings.database_url)
    }

    def held() -> Held:
        pooled = [found for found in process.net_connections() if found.raddr and found.raddr.port in stores]
        assert len(pooled) <= 2 * VISITORS + OTHERS
        return Held(
            metric(server, "lanewise_sockets "),
            metric(server, "lanewise_channels "),
            len(redis_client.pubsub_channels(f"lw:{counted.settings.deployment}:*")),
            int(httpx.get(server.url + GREENLETS_PATH).text),
            process.num_fds() - len(pooled),
        )

    runs = [worker.start(user, server.submit(user)) for user in users]
    with server.stream("stays") as stays:
        stays.until_live()
        before = held()
        over = threading.Event()

        def talk() -> None:
            while not over.wait(0.02):
                for run in runs:
                    worker.say(run, "x")

        talking = threading.Thread(target=talk)
        talking.start()
        try:
            seen = churn(gateway, lambda visits: visits < VISITS, threads=VISITORS)
        finally:
            over.set()
            talking.join()
        assert len(seen) == len(QUICK)
        assert seen.total() > 200

        def is_back() -> bool:
            return all(now <= then for now, then in zip(held(), before, strict=True))

        # Each kind came some 30 times: what leaked with one of them would be far more than what was under way before.
        assert wait_until(is_back, BACK_S), f"{held()} instead of {before}"
        assert (before.sockets, before.channels, before.subscriptions) == (1, 1, 1)
