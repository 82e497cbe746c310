"""Faults of what lies between the log and its followers; as in `tests.chaos.faults`, what one returns is the proof."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable

from tests.chaos.faults import FAULTS, Proof, end
from tests.chaos.gateways import Gateways
from tests.chaos.history import Fault

GatewayFault = Callable[[Gateways, random.Random], Proof]


def cut(gateways: Gateways, chance: random.Random) -> Proof:
    """Some or all connections to one gateway are reset."""
    route, share = chance.choice(sorted(gateways.urls)), chance.choice((0.1, 0.3, 1))
    links = gateways.detour.order(route, "cut", share=share, seed=chance.getrandbits(32))
    return {"cut": links} if links else {}


def spoil(mood: str, least_s: float, most_s: float) -> GatewayFault:
    """All connections to one gateway stall or trickle for a while."""

    def fault(gateways: Gateways, chance: random.Random) -> Proof:
        route, for_s = chance.choice(sorted(gateways.urls)), chance.uniform(least_s, most_s)
        links = gateways.detour.order(route, "spoil", mood=mood, for_s=for_s)
        time.sleep(for_s)
        touched = gateways.detour.order(route, "touched")
        return {"links": links, mood: touched, "for_s": round(for_s, 2)} if touched else {}

    return fault


def drain(gateways: Gateways, chance: random.Random) -> Proof:
    """SIGTERM for one gateway: it sends everybody home."""
    return end(gateways.scene, "api.worker", chance, signal.SIGTERM)


def of_fleet(kind: str) -> GatewayFault:
    """A fault of the suite's other parts."""
    return lambda gateways, chance: FAULTS[kind](gateways.scene, chance)


def kill_subscriptions(gateways: Gateways, _chance: random.Random) -> Proof:
    """CLIENT KILL for the connections that listen to Redis, but for the broker's."""
    redis = gateways.scene.stores.slots
    database = redis.get_connection_kwargs().get("db", 0)
    listening = [client["id"] for client in redis.client_list(_type="pubsub") if int(client["db"]) == database]
    killed = sum(int(redis.client_kill_filter(_id=number)) for number in listening)
    return {"killed connections": killed} if killed else {}


GATEWAY_FAULTS: dict[str, GatewayFault] = {
    "gateway.cut": cut,
    "gateway.stall": spoil("stall", 0.3, 2),
    "gateway.trickle": spoil("trickle", 0.3, 1),
    "gateway.drain": drain,
    "gateway.kill": of_fleet("api.worker.kill"),
    "subscription.kill": kill_subscriptions,
    "worker.kill": of_fleet("worker.kill"),
    "redis.empty": of_fleet("redis.empty"),
    "redis.stall": of_fleet("redis.stall"),
}


def make_fault(gateways: Gateways, seed: object, number: int, kind: str) -> Fault:
    """Makes one; it counts only if runs were under way."""
    running, at, began = gateways.talking(), time.time(), time.monotonic()
    # A chance of its own for each: what one fault draws must not move the next.
    proof = GATEWAY_FAULTS[kind](gateways, random.Random(f"{seed} {number} {kind}"))
    return Fault(number, kind, at, round(time.monotonic() - began, 2), running, proof)
