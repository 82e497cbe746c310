"""The breaker, on a clock of the test's own."""

from __future__ import annotations

import pytest

from shared.breaker import HUNG_S, PAUSE_S, Breaker


class Store:
    """Fails or not, and takes its time.

    Args:
        patch: puts the clock in the breaker's.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        self.away = False
        self.asked = 0
        patch.setattr("shared.breaker.time.monotonic", lambda: self.now_s)
        self.breaker = Breaker(lambda: LookupError("not asked"))

    def ask(self, takes_s: float = 0) -> None:
        with self.breaker.guard():
            self.asked += 1
            self.now_s += takes_s
            if self.away:
                raise TimeoutError


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    return Store(monkeypatch)


def test_after_a_call_that_hung_none_is_tried_for_a_while(store: Store) -> None:
    store.away = True
    with pytest.raises(TimeoutError):
        store.ask(2)
    store.away = False
    for _ in range(3):
        with pytest.raises(LookupError):
            store.ask()
    assert store.asked == 1
    store.now_s += PAUSE_S
    store.ask()
    store.ask()
    assert store.asked == 3


def test_one_alone_asks_again(store: Store) -> None:
    store.away = True
    with pytest.raises(TimeoutError):
        store.ask(2)
    store.now_s += PAUSE_S
    with store.breaker.guard(), pytest.raises(LookupError):  # while its answer is waited for
        store.ask()
    assert store.asked == 1
    with pytest.raises(TimeoutError):
        store.ask(2)


def test_what_fails_at_once_or_takes_long_and_succeeds_is_asked_on(store: Store) -> None:
    store.away = True
    for _ in range(3):
        with pytest.raises(TimeoutError):
            store.ask(HUNG_S / 2)
    store.away = False
    store.ask(10)
    store.ask()
    assert store.asked == 5
