"""Who may call what: the matrix of `tests.access`, row by row, against a real api."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import httpx
import jwt
import pytest
import sqlalchemy as sa
from flask import Flask
from websockets.exceptions import ConnectionClosed

from shared.context import RESERVED_ENDINGS
from shared.deletion import begin
from shared.ids import new_id
from shared.models import Passage
from shared.outcomes import Failed
from shared.signing import Signer
from tests.access import MATRIX, OPEN, STREAM, Row, StreamRow
from tests.api_process import FakeWorker, Server
from tests.integration.api.conftest import Fleet, UserClient
from worker.records import PostgresRecords

ADMIN = "/v1/admin/"
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
CANARY = new_id()  # in all that an owner has
CODES = {400: "bad_request", 401: "unauthorized", 403: "forbidden", 404: "not_found"}
SSE = {"Accept": "text/event-stream"}
# What changes with time, and the record of the refusals themselves.
KEPT_APART = {"audit_log": "action NOT IN ('sign_in.refuse', 'call.refuse')"}

DUMP = """
    local found = {}
    for _, key in ipairs(redis.call('KEYS', ARGV[1])) do
        if not key:find(':rates:') then  -- refused submissions count for who made them
            found[#found + 1] = {key, redis.sha1hex(redis.call('DUMP', key) or '')}
        end
    end
    return found
"""

Send = dict[str, Any]


@dataclass(frozen=True)
class Owned:
    """What the rows are about: things of an owner's, or names of nothing."""

    user_id: str
    ended: str
    live: str
    thread: str
    name: str

    @classmethod
    def nothing(cls) -> Owned:
        return cls(f"nobody-{new_id()}", new_id(), new_id(), new_id(), f"{new_id()}.txt")

    def path(self, row: Row) -> str:
        run = self.live if row.route.endswith("/cancel") else self.ended
        names = {"run_id": run, "thread_id": self.thread, "name": self.name, "number": "1",
                 "file_name": "main.js", "user:user_id": self.user_id}  # fmt: skip
        path = row.route
        for name, value in names.items():
            path = path.replace(f"<{name}>", value)
        return path

    def sends(self, row: Row) -> list[Send]:
        """Returns what is sent with a request of this row, in each of its forms."""
        found: dict[tuple[str, str], list[Send]] = {
            ("POST", "/v1/runs"): [
                {"json": {"agent": "echo", "input": {"text": "x"}, "thread_id": self.thread}},
            ],
            ("GET", "/v1/runs"): [{}, {"params": {"thread_id": self.thread}}, {"params": {"agent": "echo"}}],
            ("GET", "/v1/runs/<run_id>/events"): [{}, {"headers": SSE}, {"params": {"after": "1"}, "headers": SSE}],
            ("PUT", "/v1/documents/<name>"): [{"content": b"changed"}],
            ("PUT", f"{ADMIN}users/<user:user_id>/limits"): [{"json": {"concurrent_runs": 7}}],
            ("PUT", f"{ADMIN}users/<user:user_id>/grants"): [{"json": {"tools": [{"tool": "fetch"}]}}],
            ("DELETE", f"{ADMIN}users/<user:user_id>"): [{"params": {"timeout_s": "0"}}],  # nobody leads this fleet
            ("GET", f"{ADMIN}audit"): [{}, {"params": {"user_id": self.user_id}}],
        }
        return found.get((row.method, row.route), [{}])


class World:
    """Callers of each kind, and owners of things.

    Args:
        fleet: the api and its stores.
    """

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self._other, self._admin, self._both, self._revoked = (
            f"{kind}-{new_id()}" for kind in ("other", "admin", "both", "revoked")
        )
        with fleet.server.client() as client:
            token = {"Authorization": f"Bearer {fleet.server.token(self._admin, scopes=('admin',))}"}
            answer = client.post(f"{ADMIN}users/{self._revoked}/revoke", headers=token)
        assert answer.status_code == 200, answer.text

    def owner(self) -> Owned:
        """Makes one who has a run that failed, one that waits, and all else that a user can have."""
        user_id, worker = f"owner-{new_id()}", self.fleet.worker
        with self.fleet.server.client(user_id) as client:
            thread = client.post("/v1/threads", json={"title": CANARY}).json()["id"]
            body = {"agent": "echo", "input": {"text": CANARY}, "thread_id": thread}
            ended, live = (client.post("/v1/runs", json=body).json()["id"] for _ in range(2))
            name = f"{new_id()}.txt"
            assert client.put(f"/v1/documents/{name}", content=CANARY.encode()).status_code == 201
        run = worker.start(user_id, ended)
        PostgresRecords(worker.services, run).save_artifact(name, "text/plain", CANARY.encode())
        worker.finish(run, Failed("oops", CANARY))
        place = {"document": name, "number": 1, "start_char": 0, "end_char": len(CANARY)}
        with worker.services.database.user_session(user_id) as session:
            session.add(Passage(user_id=user_id, sha256="", heading="", text=CANARY, **place))
        return Owned(user_id, ended, live, thread, name)

    def callers(self, owned: Owned) -> dict[str, list[Send]]:
        """Returns how callers of each kind say who they are."""
        token = self.fleet.server.token
        return {
            "nobody": [
                {},
                *map(_bearer, self.bad_tokens(owned.user_id).values()),
                {"params": {"access_token": token(owned.user_id), "token": token(owned.user_id)}},
            ],
            "unscoped": [_bearer(token(owned.user_id, scopes=scopes)) for scopes in ((), ("run", "administrator"))],
            "other": [_bearer(token(self._other))],
            "both": [_bearer(token(self._both, scopes=("runs", "admin")))],
            "admin": [_bearer(token(self._admin, scopes=("admin",)))],
            "owner": [_bearer(token(owned.user_id))],
        }

    def claims(self, user_id: str) -> dict[str, Any]:
        """Returns what a good token of the user's says, with all scopes."""
        settings, now = self.fleet.settings, int(time.time())
        return {"sub": user_id, "scope": "runs admin", "iss": settings.jwt_issuer, "aud": settings.jwt_audience,
                "iat": now, "exp": now + 600}  # fmt: skip

    def bad_tokens(self, user_id: str) -> dict[str, str]:
        """Returns tokens that would be the user's if they were good."""
        key, claims = self.fleet.settings.jwt_keys[0], self.claims(user_id)
        ago = claims["iat"] - 60
        return {
            "bad": jwt.encode(claims, "k" * 32),
            "unsigned": jwt.encode(claims, "", algorithm="none"),
            "not for us": jwt.encode({**claims, "aud": "other"}, key),
            "expired": jwt.encode({**claims, "iat": ago, "exp": ago + 30}, key),
            "revoked": jwt.encode({**claims, "sub": self._revoked, "iat": ago}, key),
        }

    def old_ticket(self, user_id: str) -> str:
        """Returns a ticket of the user's that was never used, and has ended a second ago."""
        services, now, ticket_id = self.fleet.services, time.time(), new_id()
        services.redis.set(services.keys.ticket(ticket_id), "1", ex=30)
        content = {"id": ticket_id, "user_id": user_id, "scopes": ["runs"], "until": now - 1}
        ends = {"token_began": now - 60, "token_ends": now + 60}
        return Signer(self.fleet.settings.secrets, "ticket", self.fleet.settings.deployment).sign({**content, **ends})

    def fingerprint(self, user_id: str | None = None) -> dict[str, str]:
        """Returns a digest of each table, and of Redis; only of what is this user's if one is named."""
        tables = self.fleet.superuser.execute(
            sa.text("""
                SELECT table_name, bool_or(column_name = 'user_id')
                FROM information_schema.columns JOIN information_schema.tables USING (table_schema, table_name)
                WHERE table_schema = 'lanewise' AND table_type = 'BASE TABLE' GROUP BY table_name
            """)
        )
        parts = []
        for table, has_user in tables:
            conditions = [KEPT_APART[table]] if table in KEPT_APART else []
            conditions += ["user_id = :user_id"] if has_user and user_id is not None else []
            where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
            parts.append(
                f"SELECT '{table}', md5(coalesce(string_agg(t::text, chr(10) ORDER BY t::text), ''))"  # noqa: S608 - our own names
                f" FROM lanewise.{table} t {where}"
            )
            if user_id is not None and not has_user:
                parts.pop()
        found = self.fleet.superuser.execute(sa.text(" UNION ALL ".join(parts)), {"user_id": user_id})
        return {str(table): str(digest) for table, digest in found}

    def redis(self) -> dict[str, str]:
        """Returns all keys with digests of their values; some end by themselves."""
        found: list[tuple[str, str]] = self.fleet.services.redis.eval(DUMP, 0, f"lw:{self.fleet.settings.deployment}:*")
        return dict(found)


def _bearer(token: str) -> Send:
    return {"headers": {"Authorization": f"Bearer {token}"}}


def _joined(who: Send, what: Send) -> Send:
    both = {name: {**who.get(name, {}), **what.get(name, {})} for name in ("headers", "params")}
    return {**what, **{name: value for name, value in both.items() if value}}


@pytest.fixture(scope="module")
def world(shared_fleet: Fleet) -> World:
    return World(shared_fleet)


@pytest.fixture(scope="module")
def kept(world: World) -> Owned:
    """An owner for all rows that change nothing."""
    return world.owner()


@pytest.fixture(scope="module")
def http(shared_fleet: Fleet) -> Iterator[httpx.Client]:
    with shared_fleet.server.client() as client:
        del client.headers["Authorization"]
        yield client


def test_tokens_that_are_not_good_here(http: httpx.Client, world: World) -> None:
    """The rows have five kinds of these; that each route asks, they show. What it asks with is the same for all."""
    settings, claims = world.fleet.settings, world.claims("alice")
    key = settings.jwt_keys[0]
    assert (
        http.get("/v1/me", headers={"Authorization": f"Bearer {jwt.encode(claims, key)}"}).json()["user_id"] == "alice"
    )
    head, body, signature = jwt.encode({**claims, "sub": "bob"}, key).split(".")
    ticket = Signer(settings.secrets, "ticket", settings.deployment)
    for header in (
        "Basic eDp5", "Bearer", "Bearer x", f"Bearer {head}.{body}.", f"Bearer {head}.{body}", f"Token {head}.{body}.x",
        f"Bearer {head}.{jwt.encode(claims, key).split('.')[1]}.{signature}",
        *(f"Bearer {token}" for token in (
            jwt.encode(claims, settings.secrets[0]), jwt.encode(claims, key, algorithm="HS512"),
            jwt.encode({**claims, "iss": "other"}, key), jwt.encode({**claims, "nbf": claims["iat"] + 300}, key),
            *(jwt.encode({name: claims[name] for name in claims.keys() - {left_out}}, key)
              for left_out in ("sub", "exp", "aud", "iss")),
            ticket.sign({"id": "1", "user_id": "alice", "scopes": ["runs", "admin"]}),
        )),
    ):  # fmt: skip
        answer = http.get("/v1/me", headers={"Authorization": header})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthorized"), header


# The table is whole


def test_every_route_has_a_row_and_every_row_a_route(app: Flask) -> None:
    served = {(method, rule.rule) for rule in app.url_map.iter_rules() for method in rule.methods or set()}
    rows = [(row.method, row.route) for row in MATRIX]
    assert len(rows) == len(set(rows))
    assert served - set(rows) == set(), "routes without a row in tests/access.py"
    assert set(rows) - served == set(), "rows of tests/access.py without a route"


def test_nobody_is_let_in_but_where_a_reason_is_given(app: Flask) -> None:
    assert {row.route for row in MATRIX if row.expected["nobody"] != 401} == set(OPEN)
    for row in MATRIX:
        allowed = {kind for kind, status in row.expected.items() if status < 400}
        if row.route in OPEN:
            assert len(set(row.expected.values())) == 1, row
        elif row.route.startswith(ADMIN):
            assert allowed == {"admin", "both"}, row
        else:
            assert row.expected["admin"] == row.expected["unscoped"] == 403, row
            assert {"owner"} <= allowed <= {"owner", "other", "both"}, row
    assert app


@pytest.mark.parametrize("route", sorted({row.route for row in MATRIX}))
def test_no_other_method_is_served(http: httpx.Client, world: World, route: str) -> None:
    rows = [row for row in MATRIX if row.route == route]
    path, methods = Owned.nothing().path(rows[0]), {row.method for row in rows}
    for method in set(METHODS) - methods:
        for who in ({}, *world.callers(Owned.nothing())["both"]):
            answer = http.request(method, path, **who)
            assert answer.status_code == 405, (method, answer.text)


# The rows


@pytest.mark.parametrize("row", MATRIX, ids=lambda row: f"{row.method} {row.route}")
def test_row(http: httpx.Client, world: World, kept: Owned, row: Row) -> None:
    changes = row.method not in {"GET", "HEAD"} or row.route.endswith("/deletion")
    owned = world.owner() if changes else kept
    callers = world.callers(owned)
    if row.route.endswith("/deletion"):
        with world.fleet.services.database.user_session(owned.user_id) as session:
            begin(session, owned.user_id)
    before, in_redis = world.fingerprint(), world.redis()
    for kind, status in row.expected.items():
        # HEAD is what GET is, without the body: that it is neither open nor forgotten shows with two of each kind.
        for who in callers[kind][: 2 if row.method == "HEAD" else None] if status >= 400 else ():
            for what in owned.sends(row):
                send = _joined(who, what)
                answer = http.request(row.method, owned.path(row), **send)
                assert answer.status_code == status, (kind, send, answer.text)
                _refused(answer, owned)
                if status == 404:
                    _like_nothing(http, row, who, answer)
    assert world.fingerprint() == before, "a call that was refused has changed something"
    assert world.redis().items() <= in_redis.items(), "a call that was refused has changed something"
    before = world.fingerprint(owned.user_id)
    for kind in ("nobody", "unscoped", "admin", "other", "both"):
        _let_in(http, row, kind, owned, callers)
    if not row.route.startswith(ADMIN):
        assert world.fingerprint(owned.user_id) == before, "others have changed what is the owner's"
    _let_in(http, row, "owner", owned, callers)


def _let_in(http: httpx.Client, row: Row, kind: str, owned: Owned, callers: dict[str, list[Send]]) -> None:
    for who in callers[kind][:2] if row.expected[kind] < 400 else ():
        for what in owned.sends(row):
            answer = http.request(row.method, owned.path(row), **_joined(who, what))
            assert answer.status_code == row.expected[kind], (kind, answer.text)
            if kind != "owner" and not row.route.startswith(ADMIN):
                _shows_nothing(answer, owned)


def _refused(answer: httpx.Response, owned: Owned) -> None:
    _shows_nothing(answer, owned)
    if answer.status_code == 401:
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    if answer.request.method == "HEAD":
        assert answer.content == b""
    else:
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == CODES[answer.status_code]


def _like_nothing(http: httpx.Client, row: Row, who: Send, answer: httpx.Response) -> None:
    """What is another's looks like what is not there."""
    nothing = Owned.nothing()
    of_nothing = http.request(row.method, nothing.path(row), **_joined(who, nothing.sends(row)[0]))
    assert of_nothing.status_code == answer.status_code, of_nothing.text
    assert of_nothing.headers.keys() == answer.headers.keys()
    if row.method != "HEAD":
        assert _without_correlation(of_nothing) == _without_correlation(answer)


def _shows_nothing(answer: httpx.Response, owned: Owned) -> None:
    found = answer.text + repr(answer.headers)
    for value in (CANARY, owned.user_id, owned.ended, owned.live, owned.thread):
        assert value not in found


def _without_correlation(answer: httpx.Response) -> dict[str, Any]:
    return {**answer.json(), "correlation_id": None}


# The WebSocket


@pytest.mark.parametrize("row", STREAM, ids=lambda row: f"{row.upgrade} {row.hello}")
def test_stream(world: World, kept: Owned, row: StreamRow) -> None:
    owned, server, before = kept, world.fleet.server, world.fingerprint(kept.user_id)
    answer, text = _say_hello(server, _upgrade(world, owned, row.upgrade), _hello(world, owned, row.hello))
    assert answer == row.answer
    if answer == "welcome" and "owner" not in (row.upgrade, row.hello):
        mine = row.hello == "ticket"
        assert (owned.ended in text) == mine
        assert (CANARY in text) == mine
    else:
        assert (CANARY in text) == (answer == "welcome")
    assert world.fingerprint(owned.user_id) == before


def _upgrade(world: World, owned: Owned, kind: str) -> dict[str, Any]:
    """Returns what `Server.socket` takes."""
    callers, bad = world.callers(owned), world.bad_tokens(owned.user_id)
    match kind:
        case "-" | "query":
            return {"query": f"?access_token={world.fleet.server.token(owned.user_id)}"} if kind == "query" else {}
        case "bad" | "expired" | "revoked":
            return {"headers": _bearer(bad[kind])["headers"]}
        case "foreign-page":
            return {"headers": {**callers["owner"][0]["headers"], "Origin": "https://evil.example"}}
        case _:
            return {"headers": callers[kind][0]["headers"]}


def _hello(world: World, owned: Owned, kind: str) -> str | None:
    """Returns the ticket, or what is shown in its place."""
    server = world.fleet.server
    if kind == "-":
        return None
    if kind == "token":
        return server.token(owned.user_id)
    if kind == "ticket.old":
        return world.old_ticket(owned.user_id)
    ticket = _ticket(server, f"other-{new_id()}" if kind == "ticket.other" else owned.user_id)
    if kind == "ticket.used":
        assert _say_hello(server, {}, ticket)[0] == "welcome"
    if kind == "ticket.changed":  # what another user's ticket says, under the signature of the owner's
        ticket = f"{_ticket(server, f'other-{new_id()}').rpartition('.')[0]}.{ticket.rpartition('.')[2]}"
    return ticket


def _say_hello(server: Server, upgrade: dict[str, Any], ticket: str | None) -> tuple[str, str]:
    """Returns `welcome` or the close code, and all that came."""
    seen = ""
    options = {"query": upgrade.get("query", ""), "additional_headers": upgrade.get("headers", {})}
    with server.socket(None, **options) as connection, suppress(ConnectionClosed):
        connection.send(json.dumps({"t": "hello", "v": 1, "ticket": ticket, "after": None}))
        while '"t":"live"' not in seen:
            seen += str(connection.recv(timeout=10))
        return "welcome", seen
    return str(connection.close_code), seen


def _ticket(server: Server, user_id: str) -> str:
    with server.client(user_id) as client:
        return str(client.post("/v1/tickets").json()["ticket"])


def test_nothing_of_anothers_can_be_asked_for_over_the_stream(world: World, kept: Owned) -> None:
    owned, server, nothing = kept, world.fleet.server, Owned.nothing()
    before = world.fingerprint(owned.user_id)
    with server.stream(f"other-{new_id()}", after=None) as stream:
        stream.until_live()

        def ask(**frame: Any) -> dict[str, Any]:
            stream.send(ref="r", **frame)
            return stream.answer("r")

        sound = {"t": "run.submit", "agent": "echo", "input": {"text": "x"}}
        asked = [({"t": "run.cancel", "run_id": of.live}, {**sound, "thread_id": of.thread}) for of in (owned, nothing)]
        for of_owner, of_nothing in zip(*asked, strict=True):
            answer = ask(**of_owner)
            assert answer["problem"]["code"] == "not_found"
            assert answer == ask(**of_nothing)
        named = ask(**sound, user_id=owned.user_id)
        assert named["problem"]["code"] == "invalid"
        assert ask(t="auth", ticket=_ticket(server, owned.user_id))["problem"]["code"] == "unauthorized"
    assert world.fingerprint(owned.user_id) == before


# And besides


def test_lists_hold_only_the_callers_own(alice: UserClient, bob: UserClient, worker: FakeWorker) -> None:
    thread = alice.post("/v1/threads").json()["id"]
    alice.post("/v1/runs", json={"agent": "echo", "input": {"text": "x"}, "thread_id": thread})
    alice.put("/v1/documents/notes.txt", content=b"secret")
    for path in ("/v1/runs", f"/v1/runs?thread_id={thread}", "/v1/threads", "/v1/documents"):
        assert len(alice.get(path).json()["items"]) == 1
        assert bob.get(path).json() == {"items": [], "next_cursor": None}
    assert worker


def test_the_same_document_name_is_another_document(alice: UserClient, bob: UserClient) -> None:
    assert alice.put("/v1/documents/a", content=b"hers").status_code == 201
    assert bob.put("/v1/documents/a", content=b"his").status_code == 201
    assert alice.get("/v1/documents/a").content == b"hers"


@pytest.mark.parametrize("where", ["body", "query", "header"])
def test_a_user_id_in_a_request_is_never_believed(
    alice: UserClient, bob: UserClient, worker: FakeWorker, body: dict[str, Any], where: str
) -> None:
    answer = alice.post(
        "/v1/runs",
        json={**body, "user_id": "bob"} if where == "body" else body,
        params={"user_id": "bob"} if where == "query" else {},
        headers={"X-User-ID": "bob", "User-ID": "bob"} if where == "header" else {},
    )
    assert answer.status_code == (422 if where == "body" else 202), answer.text
    assert bob.get("/v1/runs").json()["items"] == []
    assert alice.get("/v1/runs?user_id=bob").status_code == 422
    assert worker


def test_no_user_can_be_called_like_a_call_about_a_user() -> None:
    about = f"{ADMIN}users/<user:user_id>"
    calls = {row.route.removeprefix(about) for row in MATRIX if row.route.startswith(about)} - {""}
    assert calls == set(RESERVED_ENDINGS)
