"""Much that is published at once is taken little by little, so that everything else in the process goes on."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence

import pytest

from api.gateway.channel import Channel, Delivery
from api.gateway.hub import TOGETHER, Hub
from api.gateway.subscription import Subscription
from api.metrics import Metrics
from tests.integration.api.conftest import Home

PATIENCE_S = 20.0


class Ear:
    def __init__(self) -> None:
        self.heard: list[int] = []

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self.heard += [delivery.seq for delivery in deliveries]

    def lose(self) -> None:
        raise AssertionError


def test_what_comes_together_is_handed_on_in_parts_with_pauses(
    home: Home, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub, channel, ear, here = Hub(home.services, Metrics()), Channel(user, user), Ear(), threading.get_ident()
    hub._channels[channel.name] = channel
    channel.place(0)
    channel.add(ear)
    pauses: list[int] = []

    def pause(_seconds: float) -> None:
        if threading.get_ident() == here:
            pauses.append(len(ear.heard))

    monkeypatch.setattr("api.gateway.hub.time.sleep", pause)
    views = [{"t": "event", "seq": seq} for seq in range(1, 4 * TOGETHER + 1)]
    large, small = json.dumps(views[: 2 * TOGETHER + 1]), [json.dumps([view]) for view in views[2 * TOGETHER + 1 :]]
    hub._receive({channel.name: [large, "not ours", *small]})
    assert ear.heard == list(range(1, 4 * TOGETHER + 1))
    assert pauses == [TOGETHER, 2 * TOGETHER, 3 * TOGETHER, 4 * TOGETHER]


def test_messages_are_taken_together_up_to_so_many_bytes(
    home: Home, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.gateway.subscription.MAX_TOGETHER_BYTES", 250)
    subscribed, published, done = threading.Event(), threading.Event(), threading.Event()
    counts: list[int] = []

    def take(messages: dict[str, list[str]]) -> None:
        assert published.wait(PATIENCE_S)
        counts.append(len(messages[user]))
        if sum(counts) == 31:
            done.set()

    subscription = Subscription(
        home.settings.redis_url.get_secret_value(),
        on_messages=take,
        on_confirmed=lambda _name: subscribed.set(),
        on_gap=lambda: None,
    )
    subscription.add(user)
    subscription.start()
    try:
        assert subscribed.wait(PATIENCE_S)
        for _ in range(31):
            home.services.redis.publish(user, "x" * 100)
        published.set()
        assert done.wait(PATIENCE_S), counts
    finally:
        subscription.stop()
    assert max(counts) == 3
