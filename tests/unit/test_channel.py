"""A user's stream in the gateway: put in order, whatever comes from where."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from api.gateway.channel import Channel, Delivery
from api.gateway.protocol import encode
from api.gateway.ring import MAX_BYTES, MAX_FRAMES, OVERHEAD

PAGE = 5


class Ear:
    def __init__(self) -> None:
        self.heard: list[int] = []
        self.lost = 0

    def offer(self, deliveries: Sequence[Delivery]) -> None:
        self.heard += [delivery.seq for delivery in deliveries]

    def lose(self) -> None:
        self.lost += 1


def views(*numbers: int) -> list[dict[str, Any]]:
    return [{"t": "event", "seq": number} for number in numbers]


@pytest.fixture
def ear() -> Ear:
    return Ear()


@pytest.fixture
def channel(ear: Ear) -> Channel:
    made = Channel("alice", "channel")
    made.place(10)
    assert made.add(ear) == 10
    return made


def test_the_next_is_delivered_and_the_old_dropped(channel: Channel, ear: Ear) -> None:
    assert channel.receive(views(11, 12))
    assert channel.receive(views(11))
    assert channel.receive(views(9, 10, 11, 12, 13))
    assert channel.receive([])
    assert ear.heard == [11, 12, 13]


def test_a_gap_is_reported_and_what_precedes_it_delivered(channel: Channel, ear: Ear) -> None:
    assert not channel.receive(views(11, 13))
    assert ear.heard == [11]


def test_what_was_overtaken_and_comes_after_all_needs_no_repair(channel: Channel, ear: Ear) -> None:
    assert not channel.receive(views(13))
    assert channel.begin_repair()
    assert not channel.begin_repair()
    assert not channel.end_repair_if_whole()
    assert not channel.receive(views(12, 15))
    assert ear.heard == []
    assert not channel.receive(views(11))
    assert ear.heard == [11, 12, 13]
    assert channel.receive(views(14))
    assert ear.heard == [11, 12, 13, 14, 15]
    assert channel.end_repair_if_whole()
    assert channel.begin_repair()


def test_what_was_overtaken_and_never_comes_is_read_from_the_log(channel: Channel, ear: Ear) -> None:
    assert not channel.receive(views(13))
    assert channel.begin_repair()
    assert channel.fill(views(11, 12), wanted=channel.wanted)
    assert ear.heard == [11, 12, 13]
    assert channel.receive(views(14))
    assert ear.heard == [11, 12, 13, 14]


def test_a_repair_goes_on_up_to_what_was_announced_however_short_the_pages(channel: Channel, ear: Ear) -> None:
    channel.is_behind(17)
    channel.begin_repair()
    assert not channel.fill(views(11, 12, 13, 14, 15), wanted=17)
    assert not channel.fill(views(16), wanted=17)
    channel.receive(views(19))
    assert not channel.fill(views(17), wanted=17)
    assert channel.fill(views(18), wanted=channel.wanted)
    assert ear.heard == [11, 12, 13, 14, 15, 16, 17, 18, 19]


def test_a_number_that_the_log_does_not_have_ends_the_repair(channel: Channel, ear: Ear) -> None:
    assert not channel.receive(views(1000))
    channel.begin_repair()
    assert channel.fill([], wanted=channel.wanted)
    assert channel.receive(views(11))
    assert ear.heard == [11]


def test_a_log_that_begins_later_is_a_loss(channel: Channel, ear: Ear) -> None:
    channel.begin_repair()
    assert channel.fill(views(20, 21), wanted=21)
    assert ear.lost == 1
    assert channel.receive(views(22))
    assert ear.heard == [20, 21, 22]


def test_a_log_with_holes_is_a_loss_and_is_gone_through_once(channel: Channel, ear: Ear) -> None:
    channel.begin_repair()
    assert channel.fill(views(11, 13, 14, 20), wanted=20)
    assert ear.lost == 2
    assert ear.heard == [11, 13, 14, 20]


def test_what_comes_before_it_has_its_place_waits_for_it(ear: Ear) -> None:
    made = Channel("alice", "channel")
    made.add(ear)
    assert made.receive(views(10, 11, 13))
    assert not made.begin_repair()
    assert not made.place(10)
    assert made.is_behind(13)
    assert ear.heard == [11]


def test_a_listener_that_fails_is_lost_and_keeps_nothing_from_the_others(channel: Channel, ear: Ear) -> None:
    class Deaf(Ear):
        def offer(self, deliveries: Sequence[Delivery]) -> None:
            raise ValueError(deliveries)

    deaf, others = [Deaf() for _ in range(5)], [Ear() for _ in range(5)]
    for listener in (*deaf, *others):
        channel.add(listener)
    assert channel.receive(views(11))
    assert [listener.lost for listener in deaf] == [1] * len(deaf)
    assert all((listener.heard, listener.lost) == ([11], 0) for listener in (ear, *others))


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 4), st.booleans()), max_size=40))
def test_whatever_is_lost_doubled_or_late_each_is_heard_once_in_order(steps: list[tuple[int, int, bool]]) -> None:
    """A log that grows, messages in any order or never, repairs in between: nothing is skipped or repeated."""
    ear, channel, head = Ear(), Channel("alice", "channel"), 0
    channel.place(0)
    channel.add(ear)
    for first, more, grows in steps:
        head += more if grows else 0
        message = views(*range(first, min(first + more, head + 1)))
        if not channel.receive(message) or channel.is_behind(head):
            _repair(channel, head)
    if channel.is_behind(head):
        _repair(channel, head)
    assert ear.heard == list(range(1, head + 1))


def _repair(channel: Channel, head: int) -> None:
    if not channel.begin_repair():
        return
    done = False
    while not done:
        last = channel.last or 0
        done = channel.fill(views(*range(last + 1, min(last + PAGE, head) + 1)), channel.wanted)


class TestComingBack:
    def test_what_was_delivered_is_at_hand_and_what_follows_is_offered(self, channel: Channel, ear: Ear) -> None:
        channel.receive(views(11, 12, 13))
        late = Ear()
        assert channel.resume(late, 11) == [encode(view) for view in views(12, 13)]
        channel.receive(views(14))
        assert (late.heard, ear.heard) == ([14], [11, 12, 13, 14])
        assert channel.resume(Ear(), 14) == []

    @pytest.mark.parametrize("after", [0, 9, 14])
    def test_elsewhere_nothing_is_begun(self, channel: Channel, after: int) -> None:
        channel.receive(views(11, 12, 13))
        late = Ear()
        assert channel.resume(late, after) is None
        channel.receive(views(14))
        assert late.heard == []

    def test_what_precedes_is_taken_if_it_fits_without_a_gap(self, channel: Channel) -> None:
        channel.receive(views(11))
        older = [encode(view) for view in views(8, 9)]
        channel.remember(older, 9)
        assert (channel.resume(Ear(), 9), channel.missing(7)) == (None, 3)
        channel.remember(older, 10)
        assert (channel.resume(Ear(), 8), channel.missing(7)) == ([*older, encode(views(11)[0])], 1)

    def test_a_hole_in_the_log_is_not_bridged(self, channel: Channel) -> None:
        channel.receive(views(11, 12))
        channel.begin_repair()
        channel.fill(views(20, 21), wanted=21)
        assert channel.resume(Ear(), 12) is None
        assert channel.resume(Ear(), 19) == [encode(view) for view in views(20, 21)]

    def test_at_most_so_many_and_so_many_bytes_are_kept(self, channel: Channel) -> None:
        for number in range(11, 11 + MAX_FRAMES + 5):
            channel.receive(views(number))
        last = channel.last or 0
        assert channel.resume(Ear(), last - MAX_FRAMES - 1) is None
        assert len(channel.resume(Ear(), last - MAX_FRAMES) or ()) == MAX_FRAMES
        channel.trim(3 * (OVERHEAD + len(encode(views(last)[0]))))
        assert channel.resume(Ear(), last - 4) is None
        assert len(channel.resume(Ear(), last - 3) or ()) == 3
        channel.remember([b"x"], last - 3)  # no room
        assert channel.resume(Ear(), last - 4) is None

    def test_nothing_is_kept_for_long(self, channel: Channel, monkeypatch: pytest.MonkeyPatch) -> None:
        channel.receive(views(11))
        channel.trim(MAX_BYTES)
        assert channel.resume(Ear(), 10)
        monkeypatch.setattr("api.gateway.ring.KEPT_S", -1.0)
        channel.trim(MAX_BYTES)
        assert channel.resume(Ear(), 10) is None
        assert channel.resume(Ear(), 11) == []

    def test_a_head_that_went_back_is_a_loss_and_begins_anew(self, channel: Channel, ear: Ear) -> None:
        channel.receive(views(11, 12))
        channel.rewind(11, 5)  # judged by a position that has moved on
        assert (ear.lost, channel.last) == (0, 12)
        channel.rewind(12, 5)
        assert (ear.lost, channel.last) == (1, 5)
        assert channel.resume(Ear(), 11) is None
        assert channel.receive(views(6))
        assert ear.heard == [11, 12, 6]
