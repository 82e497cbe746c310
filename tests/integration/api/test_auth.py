"""Who is asking: what stands in the Authorization header, and what is told of those who are not let in."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
import structlog
from flask import g

from api.auth import ADMIN, MAX_CALL, authenticate, bearer, refused
from api.refusals import Refusal
from api.state import EXTENSION, Api
from shared.errors import ForbiddenError, NotFoundError, UnauthorizedError
from shared.ids import new_id
from shared.tokens import Identity
from tests.integration.api.conftest import Home


@pytest.fixture
def state(home: Home, monkeypatch: pytest.MonkeyPatch) -> Api:
    """The app's; what it refuses is counted, and nobody writes it meanwhile."""
    state: Api = home.app.extensions[EXTENSION]
    state.refusals.tick()
    monkeypatch.setattr(state.refusals, "_started", True)
    monkeypatch.setattr(state.refusals, "_counted", {})
    return state


@pytest.fixture
def user() -> str:
    return f"alice-{new_id()}"


@pytest.fixture(autouse=True)
def _bound() -> Iterator[None]:
    structlog.contextvars.clear_contextvars()
    yield
    structlog.contextvars.clear_contextvars()


def ask(home: Home, header: str | None, scope: str = "runs", correlation_id: str = "c-1") -> Identity:
    headers = {} if header is None else {"Authorization": header}
    with home.app.test_request_context("/v1/runs", headers=headers):
        g.correlation_id = correlation_id
        return authenticate(scope)


def counted(state: Api) -> dict[Refusal, tuple[int, str]]:
    return state.refusals._counted


def failures(state: Api) -> float:
    return state.metrics.registry.get_sample_value("lanewise_sign_in_failures_total") or 0


@pytest.mark.parametrize("form", ["Bearer {}", "bearer {}", "BEARER   {}  "])
def test_a_good_token_says_who_it_is(home: Home, state: Api, user: str, form: str) -> None:
    before = failures(state)
    identity = ask(home, form.format(home.token(user)))
    assert (identity.user_id, identity.scopes) == (user, frozenset({"runs"}))
    assert structlog.contextvars.get_contextvars()["user_id"] == user
    assert counted(state) == {}
    assert failures(state) == before


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "{}", "Basic {}", "Token {}", "{} Bearer", "Bearer_ {}"]
)
def test_without_one_a_token_is_asked_for(home: Home, state: Api, user: str, header: str | None) -> None:
    before = failures(state)
    with pytest.raises(UnauthorizedError, match="send a token"):
        ask(home, header and header.format(home.token(user)))
    assert counted(state) == {Refusal("sign_in", "runs", "send a token: `Authorization: Bearer …`"): (1, "c-1")}
    assert failures(state) == before + 1
    assert "user_id" not in structlog.contextvars.get_contextvars()


def test_a_bad_one_is_counted_without_a_user(home: Home, state: Api) -> None:
    for number in range(3):
        with pytest.raises(UnauthorizedError, match="the token is not valid here"):
            ask(home, f"Bearer {number}", "admin", f"c-{number}")
    assert counted(state) == {Refusal("sign_in", "admin", "the token is not valid here"): (3, "c-0")}


def test_one_that_was_revoked_is_refused(home: Home, state: Api, user: str) -> None:
    token = home.token(user)
    state.revocations.learn(user, datetime.now(UTC))
    with home.app.app_context(), pytest.raises(UnauthorizedError, match="revoked"):
        bearer(f"Bearer {token}")


@pytest.mark.parametrize(
    ("scopes", "scope"), [(("runs",), "admin"), (("admin",), "runs"), ((), "runs"), (("run",), "runs")]
)
def test_without_the_scope_the_call_is_refused_and_counted_for_the_user(
    home: Home, state: Api, user: str, scopes: tuple[str, ...], scope: str
) -> None:
    before = failures(state)
    with pytest.raises(ForbiddenError, match=f"lacks the scope '{scope}'"):
        ask(home, f"Bearer {home.token(user, scopes=scopes)}", scope)
    assert counted(state) == {Refusal("call", scope, "the token lacks the scope", user): (1, "c-1")}
    assert failures(state) == before


@pytest.mark.parametrize(("error", "reason"), [(NotFoundError("x"), "not_found"), (ZeroDivisionError(), "internal")])
def test_a_failed_call_of_an_administrator_is_counted_with_why(
    home: Home, state: Api, user: str, error: Exception, reason: str
) -> None:
    path = f"/v1/admin/users/{'x' * 400}"
    with home.app.test_request_context(path, method="PUT"):
        g.correlation_id = "c-2"
        refused(Identity(user, frozenset({ADMIN}), datetime.now(UTC), datetime.now(UTC)), error)
    assert (ADMIN, MAX_CALL) == ("admin", 300)
    assert counted(state) == {Refusal("admin", f"PUT {path}"[:300], reason, user): (1, "c-2")}


def test_what_was_counted_is_what_is_written(home: Home, state: Api, user: str) -> None:
    with pytest.raises(ForbiddenError):
        ask(home, f"Bearer {home.token(user)}", "admin")
    state.refusals.tick()
    query = "SELECT actor, action, object, outcome FROM lanewise.audit_log WHERE user_id = :user_id"
    rows: Any = home.superuser.execute(sa.text(query), {"user_id": user}).all()
    assert rows == [(f"user:{user}", "call.refuse", "admin", "the token lacks the scope")]
