from __future__ import annotations

import threading
from contextlib import ExitStack

import pytest

from api import bodies
from api.places import Places
from shared.errors import QuotaError


def test_each_user_and_all_have_so_many_at_once_and_give_them_back() -> None:
    places = Places(of_user=3, in_all=4, what="chairs")
    with ExitStack() as stack:
        with places.take("alice", 2):
            stack.enter_context(places.take("alice"))
            with pytest.raises(QuotaError, match="one user may have at once, 3 chairs") as caught, places.take("alice"):
                pass
            assert caught.value.retry_after_s == 1
            with pytest.raises(QuotaError, match="all may have at once, 4 chairs"), places.take("bob", 2):
                pass
            with places.take("bob"):
                pass
        with places.take("bob", 3):
            pass
    assert not places._taken


def test_a_failure_gives_back_too() -> None:
    places = Places(of_user=1, in_all=1, what="chairs")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), places.take("alice"):
            1 / 0  # noqa: B018 - it fails
    assert not places._taken


def test_few_large_bodies_are_at_postgres_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "MAX_WAIT_S", 0.01)
    large = bodies.HEAVY_BYTES + 1
    with ExitStack() as stack:
        for _ in range(bodies.MAX_HEAVY):
            stack.enter_context(bodies.turn(large))
        with pytest.raises(QuotaError), bodies.turn(large):
            pass
        with bodies.turn(large - 1):
            pass
        monkeypatch.setattr(bodies, "MAX_WAIT_S", 10.0)
        threading.Timer(0.01, stack.pop_all().close).start()
        with bodies.turn(large):
            pass


def test_a_piece_has_its_time_and_all_of_them_the_least_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    pace = bodies.Pace(100 * bodies.LEAST_BYTES_PER_S)
    assert pace.left_s() == bodies.PATIENCE_S
    now += 100
    assert pace.left_s() == bodies.PATIENCE_S
    now += bodies.PATIENCE_S - 3
    assert pace.left_s() == 3
    now += 10
    assert 0 < pace.left_s() < 0.1
