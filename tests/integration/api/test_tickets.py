"""Tickets by themselves: what they say, how long, and how often. How a socket is opened with one: test_gateway."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from api.gateway import tickets as module
from api.gateway.tickets import TTL_S, Tickets
from api.revocations import Revocations
from lanewise.ports import free_port
from shared.errors import UnauthorizedError, UnavailableError
from shared.ids import new_id
from shared.services import Services
from shared.signing import Signer
from shared.tokens import Identity
from tests.integration.api.conftest import Home

NOT_VALID = "the ticket is not valid, has expired or was used"


@pytest.fixture
def revocations(home: Home) -> Iterator[Revocations]:
    known = Revocations(home.services.database, lambda *_: None)
    yield known
    known.stop()


@pytest.fixture
def tickets(home: Home, revocations: Revocations) -> Tickets:
    return Tickets(home.services, revocations)


@pytest.fixture
def alice() -> Identity:
    now = datetime.now(UTC)
    return Identity(f"alice-{new_id()}", frozenset({"runs", "admin"}), now, now + timedelta(hours=1))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds by which the tickets' clock, and that of their signatures, is ahead."""
    ahead, now = [0.0], time.time
    monkeypatch.setattr(time, "time", lambda: now() + ahead[0])
    return ahead


def refusal(tickets: Tickets, ticket: str) -> str:
    with pytest.raises(UnauthorizedError) as caught:
        tickets.use(ticket)
    return caught.value.message


def signed(home: Home, ticket: str, **changes: Any) -> str:
    """Returns a ticket that says something else, signed by us; what is None is left out."""
    signer = Signer(home.settings.secrets, "ticket", home.settings.deployment)
    value = signer.verify(ticket) | changes
    return signer.sign({name: item for name, item in value.items() if item is not None})


def test_it_stands_for_the_whole_identity_once(tickets: Tickets, alice: Identity) -> None:
    ticket = tickets.issue(alice)
    assert tickets.use(ticket) == alice
    assert refusal(tickets, ticket) == NOT_VALID


def test_no_two_are_the_same_and_each_can_be_used(tickets: Tickets, alice: Identity) -> None:
    first, second = tickets.issue(alice), tickets.issue(alice)
    assert tickets.use(second) == tickets.use(first) == alice


def test_it_is_good_for_half_a_minute(
    tickets: Tickets, alice: Identity, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket, late = tickets.issue(alice), tickets.issue(alice)
    clock[0] = TTL_S - 2
    assert tickets.use(ticket) == alice
    clock[0] = TTL_S + 1
    assert refusal(tickets, late) == NOT_VALID
    # Each of three says so: the signature's age, the end that the ticket names, and the mark in Redis.
    monkeypatch.setattr(module, "TTL_S", 3600)
    assert refusal(tickets, late) == NOT_VALID


def test_its_mark_goes_by_itself(home: Home, tickets: Tickets, alice: Identity) -> None:
    signer = Signer(home.settings.secrets, "ticket", home.settings.deployment)
    key = home.services.keys.ticket(signer.verify(tickets.issue(alice))["id"])
    assert TTL_S - 5 < home.services.redis.ttl(key) <= TTL_S == 30


@pytest.mark.parametrize("left", [timedelta(0), timedelta(seconds=-5)])
def test_a_token_that_has_ended_gets_none(tickets: Tickets, left: timedelta) -> None:
    ended = Identity("alice", frozenset(), datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC) + left)
    with pytest.raises(UnauthorizedError, match="the token has expired"):
        tickets.issue(ended)


def test_it_ends_with_its_token(tickets: Tickets, alice: Identity, clock: list[float]) -> None:
    soon = Identity(alice.user_id, alice.scopes, alice.issued_at, datetime.now(UTC) + timedelta(seconds=5))
    ticket = tickets.issue(soon)
    clock[0] = 6
    assert refusal(tickets, ticket) == NOT_VALID


@pytest.mark.parametrize("name", ["token_began", "token_ends"])
def test_one_of_another_version_is_not_valid(home: Home, tickets: Tickets, alice: Identity, name: str) -> None:
    assert refusal(tickets, signed(home, tickets.issue(alice), **{name: None})) == NOT_VALID


def test_one_without_its_mark_is_not_valid(home: Home, tickets: Tickets, alice: Identity) -> None:
    assert refusal(tickets, signed(home, tickets.issue(alice), id=new_id())) == NOT_VALID


@pytest.mark.parametrize("secrets", [("x" * 40,), None])
def test_one_signed_by_another_key_or_for_another_purpose_is_not_valid(
    home: Home, tickets: Tickets, alice: Identity, secrets: tuple[str, ...] | None
) -> None:
    purpose = "ticket" if secrets else "run-message"
    value = Signer(home.settings.secrets, "ticket", home.settings.deployment).verify(tickets.issue(alice))
    forged = Signer(secrets or home.settings.secrets, purpose, home.settings.deployment).sign(value)
    assert refusal(tickets, forged) == NOT_VALID


def test_one_of_a_user_who_was_revoked_since_is_refused(
    tickets: Tickets, revocations: Revocations, alice: Identity
) -> None:
    ticket = tickets.issue(alice)
    revocations.learn(alice.user_id, datetime.now(UTC))
    assert "revoked" in refusal(tickets, ticket)


def test_without_redis_they_wait(home: Home, revocations: Revocations, alice: Identity, tickets: Tickets) -> None:
    ticket = tickets.issue(alice)
    away = home.settings.model_copy(update={"redis_url": f"redis://127.0.0.1:{free_port()}/0"})
    with closing(Services.open(type(home.settings).model_validate(away.model_dump()))) as services:
        cut_off = Tickets(services, revocations)
        for work in (lambda: cut_off.issue(alice), lambda: cut_off.use(ticket)):
            with pytest.raises(UnavailableError, match="Redis, which is away") as caught:
                work()
            assert caught.value.retry_after_s == 2
    assert tickets.use(ticket) == alice
