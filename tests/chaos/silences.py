"""The last event before a silence: nothing comes after it that would give away that it is missing."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

from lanewise.process import wait_until
from tests.chaos.gateway_faults import kill_subscriptions
from tests.chaos.gateways import Gateways
from tests.chaos.script import Script

Scripts = Sequence[Script]
Silence = Callable[[Gateways, Scripts], None]
CHANCE = random.Random("silences")
STALL_S = 3.0
BACK_S = 10.0
FLOOD, FLOOD_BYTES, MESSAGE = 110, 60_000, 5  # a gateway keeps 4 MiB for a socket, and the way there some more


def published(_gateways: Gateways, scripts: Scripts) -> None:
    """Nothing is wrong."""
    _say(scripts)


def unpublished(_gateways: Gateways, scripts: Scripts) -> None:
    """It is committed, and never published."""
    for script in scripts:
        script.say()


def subscriptions_killed(gateways: Gateways, scripts: Scripts) -> None:
    """It is published to nobody: the gateways have just lost their subscriptions."""
    stored = [script.say() for script in scripts]  # first: what follows must be faster than they are back
    assert wait_until(lambda: bool(kill_subscriptions(gateways, CHANCE)), BACK_S)
    for script, events in zip(scripts, stored, strict=True):
        script.publish(events)


def overtaken(_gateways: Gateways, scripts: Scripts) -> None:
    """It is published before the one before it."""
    for script in scripts:
        first, second = script.say(), script.say()
        script.publish(second)
        script.publish(first)


def gap(_gateways: Gateways, scripts: Scripts) -> None:
    """It is published, and the one before it is not."""
    for script in scripts:
        script.say()
        script.publish(script.say())


def cut(gateways: Gateways, scripts: Scripts) -> None:
    """All followers have just lost their connections."""
    for route in gateways.urls:
        gateways.detour.order(route, "cut", share=1, seed=1)
    _say(scripts)


def redis_stalled(gateways: Gateways, scripts: Scripts) -> None:
    """Redis stands still."""
    gateways.scene.stores.order("redis", "spoil", mood="stall", for_s=STALL_S)
    _say(scripts)


def flood(gateways: Gateways, scripts: Scripts) -> None:
    """It ends more than anybody can be sent, for nobody has read for a while."""
    for route in gateways.urls:
        gateways.detour.order(route, "spoil", mood="stall", for_s=STALL_S)
    until = time.monotonic() + STALL_S
    stored = scripts[0].say(FLOOD, FLOOD_BYTES)
    for start in range(0, FLOOD, MESSAGE):
        scripts[0].publish(stored[start : start + MESSAGE])
    time.sleep(max(0.0, until - time.monotonic()))


def redis_emptied(gateways: Gateways, scripts: Scripts) -> None:
    """Redis has just been killed, and is back with nothing."""
    gateways.scene.stores.empty_redis()
    _say(scripts)


def _say(scripts: Scripts) -> None:
    for script in scripts:
        script.publish(script.say())


SILENCES: dict[str, Silence] = {
    "published": published,
    "unpublished": unpublished,
    "subscriptions killed": subscriptions_killed,
    "overtaken": overtaken,
    "gap": gap,
    "cut": cut,
    "flood": flood,
    "redis emptied": redis_emptied,
    "redis stalled": redis_stalled,
}
