"""The deliberate breaks of what delivers events: each takes away one thing that exactly-once delivery rests on."""

from __future__ import annotations

import threading
import time
from typing import Any

from tests.chaos.sabotage import Patch, put, renumber

LATE_S = 10.0
BETWEEN_S = 0.3
MOST_QUEUED = 20


def sweep_only_when_woken(module: Any) -> None:
    put(module, "SWEEP_S", 3600.0)
    put(module, "SWEEP_AWAY_S", 3600.0)  # for the first sweep comes before the first connection


def place_before_the_subscription(module: Any) -> None:
    sweep_only_when_woken(module)
    put(module, "SOCKET_TIMEOUT_S", 0.0)


def subscribe_late(module: Any) -> None:
    right = module.Subscription.add
    put(module.Subscription, "add", lambda *given: threading.Timer(LATE_S, right, given).start())


def repair_nothing(module: Any) -> None:
    put(module.Hub, "_repair", lambda _hub, _channel: None)


def sweep_nothing(module: Any) -> None:
    put(module.Hub, "compare", lambda _hub: None)


def take_no_reconnect_for_a_gap(module: Any) -> None:
    sweep_only_when_woken(module)
    put(module.Hub, "_gap", lambda _hub: None)


def remember_nothing(module: Any) -> None:
    """Every replay is read from the log."""
    put(module.Replay, "recall", lambda *_: None)


def catch_up_slowly(module: Any) -> None:
    """A listener is offered for a while what its replay will have as well."""
    remember_nothing(module)
    right = module.Stream._catch_up

    def catch_up(stream: Any, replay: Any, at_least: int = 0) -> None:
        time.sleep(BETWEEN_S if at_least else 0)
        right(stream, replay, at_least)

    put(module.Stream, "_catch_up", catch_up)


def write_doubles(module: Any) -> None:
    def write_queue(stream: Any) -> None:
        while stream._ending is None and (batch := stream._outbox.take()):
            stream._socket.write(b"".join(frame for _, frame in batch))
            stream._sent = batch[-1][0]

    catch_up_slowly(module)
    put(module.Stream, "_write_queue", write_queue)


def deliver_as_it_comes(module: Any) -> None:
    def receive(channel: Any, views: Any) -> bool:
        channel._last = max(channel._last or 0, *(view["seq"] for view in views))
        for listener in list(channel._listeners):
            listener._socket.write(b"".join(module.Delivery(view).frame for view in views))
        return True

    put(module.Channel, "receive", receive)


def tell_everybody(module: Any) -> None:
    right = module.Hub._receive

    def receive(hub: Any, messages: dict[str, list[str]]) -> None:
        for texts in messages.values():
            right(hub, dict.fromkeys(list(hub._channels), texts))

    put(module.Hub, "_receive", receive)


def drop_silently(module: Any) -> None:
    right = module.Stream.offer

    def offer(stream: Any, deliveries: Any) -> None:
        if len(stream._outbox) + len(deliveries) <= MOST_QUEUED:
            right(stream, deliveries)

    put(module.Stream, "offer", offer)


def stop_one_early(module: Any) -> None:
    remember_nothing(module)

    def catch_up(stream: Any, replay: Any, at_least: int = 0) -> None:
        del at_least
        while views := replay.read(stream._sent):
            stream._socket.write(b"".join(map(module.encode, views[:-1])))
            stream._sent = views[-1]["seq"]

    put(module.Stream, "_catch_up", catch_up)


def call_all_trimmed(module: Any) -> None:
    put(module.Replay, "_obstacle", lambda *_: "trimmed")


def call_none_trimmed(module: Any) -> None:
    put(module.Replay, "_obstacle", lambda *_: None)


def forget_the_newest(module: Any) -> None:
    right = module.Ring.newest
    put(module.Ring, "newest", lambda ring, count: right(ring, count)[:-1])


PATCHES: dict[str, dict[str, Patch]] = {
    "served-unsubscribed": {
        "api.gateway.hub": place_before_the_subscription,
        "api.gateway.subscription": subscribe_late,
    },
    "no-repair": {"api.gateway.hub": repair_nothing},
    "no-sweep": {"api.gateway.hub": sweep_nothing},
    "reconnect-is-no-gap": {"api.gateway.hub": take_no_reconnect_for_a_gap},
    "doubles-written": {"api.gateway.stream": write_doubles},
    "order-of-arrival": {"api.gateway.channel": deliver_as_it_comes},
    "wrong-channel": {"api.gateway.hub": tell_everybody},
    "overflow-dropped": {"api.gateway.stream": drop_silently},
    "replay-one-early": {"api.gateway.stream": stop_one_early},
    "memory-one-short": {"api.gateway.ring": forget_the_newest},
    "other-content": {"shared.events": renumber},
    "all-trimmed": {"api.gateway.replay": call_all_trimmed},
    "none-trimmed": {"api.gateway.replay": call_none_trimmed},
    "not-published": {},
    "sweep-only-when-woken": {"api.gateway.hub": sweep_only_when_woken},
    "no-memory": {"api.gateway.stream": remember_nothing},
    "slow-catch-up": {"api.gateway.stream": catch_up_slowly},
}
