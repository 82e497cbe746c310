"""All who follow, sent home when the process ends."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from api.gateway import manager
from api.gateway.manager import ConnectionManager
from api.gateway.protocol import MAX_SOCKETS_PER_USER, CloseCode
from api.metrics import Metrics
from shared.errors import QuotaError
from shared.tokens import Identity


class Client:
    def __init__(self) -> None:
        self.identity = Identity("alice", frozenset(), datetime.now(UTC), datetime.now(UTC))
        self.codes: list[CloseCode] = []

    def end(self, code: CloseCode, reason: str) -> None:
        assert reason
        self.codes.append(code)


@pytest.mark.parametrize(("count", "batch"), [(1, 50), (50, 50), (120, 50), (10_000, 500)])
def test_many_are_sent_home_little_by_little(monkeypatch: pytest.MonkeyPatch, count: int, batch: int) -> None:
    clients = [Client() for _ in range(count)]
    at_each_pause: list[int] = []
    paused_s: list[float] = []

    def pause(seconds: float) -> None:
        at_each_pause.append(sum(len(client.codes) for client in clients))
        paused_s.append(seconds)

    monkeypatch.setattr("api.gateway.manager.time.sleep", pause)
    with ExitStack() as stack:
        all_of_them = ConnectionManager(Metrics(), count, None)
        for number, client in enumerate(clients):
            stack.enter_context(all_of_them.register(f"user-{number}", client))
        all_of_them.drain()
        late = Client()
        with all_of_them.register("late", late):
            assert late.codes == [CloseCode.DRAINING]
    assert at_each_pause == list(range(batch, count, batch))
    assert sum(paused_s) <= manager.DRAIN_SPREAD_S
    assert all(client.codes == [CloseCode.DRAINING] for client in clients)


def test_a_full_house_is_refused_or_loses_its_oldest_as_is_asked() -> None:
    manager = ConnectionManager(Metrics(), MAX_SOCKETS_PER_USER, None)
    clients = [Client() for _ in range(MAX_SOCKETS_PER_USER)]
    with ExitStack() as stack:
        for client in clients:
            stack.enter_context(manager.register("alice", client, replace=False))
        with (
            pytest.raises(QuotaError, match=str(MAX_SOCKETS_PER_USER)),
            manager.register("alice", Client(), replace=False),
        ):
            pass
        assert not any(client.codes for client in clients)
        with manager.register("alice", Client()):
            assert [client.codes for client in clients] == [[CloseCode.REPLACED], *([[]] * (len(clients) - 1))]
        with manager.register("alice", Client(), replace=False):
            pass
