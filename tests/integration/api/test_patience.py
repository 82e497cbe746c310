"""How long the gateway waits: for a client that does not read, for one that comes back, and for Redis."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
import redis

from api.gateway import subscription
from api.gateway.subscription import Subscription
from lanewise.process import wait_until
from tests.api_process import Server, metric
from tests.chaos.detour import Detour
from tests.integration.api.conftest import Fleet, make_fleet
from tests.services import Servers
from tests.websockets import TEXT, Wire, frame, handshake, live, wire

WAIT_S = 10.0
LARGE = ["x" * 60_000] * 40  # more than the network takes, less than may be queued


@pytest.fixture(scope="module")
def hasty(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with make_fleet(servers, tmp_path_factory.mktemp("hasty") / "api.log", app="tests.hasty_api:app") as made:
        yield made


def closes(server: Server) -> Counter[str]:
    """Returns how many WebSockets were closed, by code."""
    name = 'lanewise_socket_closes_total{code="'
    lines = httpx.get(f"{server.url}/metrics").text.splitlines()
    return Counter({line.split('"')[1]: int(float(line.split()[-1])) for line in lines if line.startswith(name)})


def is_cut(reader: Wire) -> bool:
    while reader.raw.recv(1 << 16):
        pass
    return True


class TestAWriteThatTakesTooLong:
    def test_of_a_live_event(self, hasty: Fleet, user: str) -> None:
        run = hasty.worker.start(user, hasty.server.submit(user))
        before = closes(hasty.server)
        with live(hasty.server, user) as reader:
            hasty.worker.say(run, *LARGE)
            assert wait_until(lambda: closes(hasty.server) - before == {"4408": 1}, WAIT_S), closes(hasty.server)
            assert is_cut(reader)

    def test_of_a_replay(self, hasty: Fleet, user: str) -> None:
        run = hasty.worker.start(user, hasty.server.submit(user))
        hasty.worker.say(run, *LARGE)
        before = closes(hasty.server)
        with wire(hasty.server) as reader:
            reader.send(handshake(hasty.server, user))
            assert reader.head()[0] == 101
            reader.send(frame(TEXT, b'{"t":"hello","v":1,"after":0}'))
            assert wait_until(lambda: closes(hasty.server) - before == {"4408": 1}, WAIT_S), closes(hasty.server)
            assert is_cut(reader)


def test_who_comes_back_soon_is_caught_up_from_memory(hasty: Fleet, user: str) -> None:
    run, other = (hasty.worker.start(name, hasty.server.submit(name)) for name in (user, f"{user}-2"))
    sockets = metric(hasty.server, "lanewise_sockets ")
    with hasty.server.stream(f"{user}-2") as witness:
        witness.until_live()
        with hasty.server.stream(user) as first:
            first.until_live()
        assert wait_until(lambda: metric(hasty.server, "lanewise_sockets ") == sockets + 1, WAIT_S)
        for seq in (3, 4):  # only the sweep finds these: the second one's began after the client had left
            hasty.worker.say(other, "x", publish=False)
            witness.until_seq(seq)
        hasty.worker.say(run, "meanwhile")
        read = metric(hasty.server, 'lanewise_replays_total{source="log"}')
        with hasty.server.stream(user, after=2) as again:
            assert again.until_live().until_seq(3).numbers == [3]
        assert metric(hasty.server, 'lanewise_replays_total{source="log"}') == read


def test_a_redis_that_falls_silent_is_given_up(
    servers: Servers, redis_client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seconds in (("PING_S", 0.2), ("SILENCE_S", 1.2), ("RECONNECT_S", 0.05)):
        monkeypatch.setattr(subscription, name, seconds)
    port = redis_client.connection_pool.connection_kwargs["port"]
    confirmed, came = threading.Semaphore(0), threading.Event()
    with Detour({"redis": port}) as detour:
        listening = Subscription(
            servers.redis.admin_url.replace(f":{port}", f":{detour.ports['redis']}"),
            on_messages=lambda messages: came.set() if messages == {"quiet": ["hello"]} else None,
            on_confirmed=lambda _: confirmed.release(),
            on_gap=lambda: None,
        )
        listening.add("quiet")
        listening.start()
        with ExitStack() as stack:
            stack.callback(listening.stop)
            assert confirmed.acquire(timeout=WAIT_S)
            assert detour.order("redis", "half_open", share=1, seed=1) == 1  # new ones are served
            assert confirmed.acquire(timeout=WAIT_S)
            redis_client.publish("quiet", "hello")
            assert came.wait(WAIT_S)
