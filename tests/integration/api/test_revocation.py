"""Revoking a user: older tokens, tickets and connections are worth nothing any more, in any process."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime, timedelta

import httpx
import jwt
import pytest
import sqlalchemy as sa

from api.app import create_app
from api.gateway.protocol import FRAMES_PER_WRITE
from api.gateway.socket import WRITE_DEADLINE_S
from api.revocations import TICK_S, Revocations
from api.state import EXTENSION
from lanewise.process import wait_until
from shared.errors import UnauthorizedError
from shared.ids import new_id
from shared.settings import Settings
from shared.tokens import Identity
from tests.api_process import Stream, close_code, metric
from tests.integration.api.conftest import Fleet, Home, UserClient
from tests.websockets import TEXT, frame, handshake, wire
from tests.websockets import close_code as close_code_of

WITHIN_S = 10 * TICK_S  # the next look finds it; the rest is for a machine that is busy


def token(settings: Settings, user_id: str, issued_at: float | None, scope: str = "runs") -> str:
    """Returns a token as an issuer elsewhere makes it."""
    ends = int(datetime.now(UTC).timestamp()) + 600
    claims = {"sub": user_id, "iss": "lanewise", "aud": "lanewise", "exp": ends, "scope": scope}
    claims |= {} if issued_at is None else {"iat": issued_at}
    return jwt.encode(claims, settings.jwt_keys[0], algorithm="HS256")


def bearer(settings: Settings, user_id: str, issued_at: float | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(settings, user_id, issued_at)}"}


@contextmanager
def another_process(settings: Settings) -> Iterator[Callable[[str], datetime]]:
    """Yields what revokes a user by another api process of the same fleet; it returns the moment."""
    app = create_app(settings)
    admin = {"Authorization": f"Bearer {token(settings, f'admin-{new_id()}', datetime.now(UTC).timestamp(), 'admin')}"}
    with (
        closing(app.extensions[EXTENSION]),
        httpx.Client(transport=httpx.WSGITransport(app=app), base_url="http://lanewise.test", headers=admin) as client,
    ):

        def revoke(user_id: str) -> datetime:
            answer = client.post(f"/v1/admin/users/{user_id}/revoke")
            assert answer.status_code == 200, answer.text
            assert answer.json()["user_id"] == user_id
            return datetime.fromisoformat(answer.json()["revoked_at"])

        yield revoke


class TestTokens:
    def test_older_ones_are_refused_at_once_and_newer_ones_are_good(
        self, home: Home, alice: UserClient, bob: UserClient, sign_in: Callable[..., UserClient]
    ) -> None:
        admin = sign_in(f"admin-{new_id()}", scopes=("admin",))
        assert alice.get("/v1/me").status_code == 200
        answer = admin.post(f"/v1/admin/users/{alice.user_id}/revoke")
        second = int(datetime.fromisoformat(answer.json()["revoked_at"]).timestamp())
        refused = alice.get("/v1/me")
        assert (refused.status_code, refused.json()["code"]) == (401, "unauthorized")
        assert "revoked" in refused.json()["detail"]
        assert refused.headers["WWW-Authenticate"] == "Bearer"
        assert bob.get("/v1/me").status_code == 200
        for issued_at, status in ((None, 401), (second - 5, 401), (second, 401), (second + 1, 200)):
            headers = bearer(home.settings, alice.user_id, issued_at)
            assert alice.get("/v1/me", headers=headers).status_code == status, issued_at
        rows = home.superuser.execute(
            sa.text("SELECT actor, action, object FROM lanewise.audit_log WHERE user_id = :user"),
            {"user": alice.user_id},
        )
        assert [tuple(row) for row in rows] == [(f"user:{admin.user_id}", "admin.tokens.revoke", alice.user_id)]

    def test_revoking_again_moves_the_moment(self, home: Home, alice: UserClient) -> None:
        with another_process(home.settings) as revoke:
            first = revoke(alice.user_id)
            assert revoke(alice.user_id) > first

    def test_who_cannot_be_a_user_is_refused(self, sign_in: Callable[..., UserClient]) -> None:
        assert sign_in("root", scopes=("admin",)).post("/v1/admin/users/*/revoke").status_code == 422


class TestConnections:
    def test_a_process_looks_twice_a_second(self) -> None:
        assert TICK_S <= 0.5  # what is promised within a second needs that

    def test_all_of_them_are_closed_by_every_process_at_its_next_look(self, fleet: Fleet, user: str) -> None:
        run_id = fleet.server.submit(user)
        newer = bearer(fleet.settings, user, datetime.now(UTC).timestamp() + 5)  # from a fast clock: still to be good
        old = bearer(fleet.settings, user, datetime.now(UTC).timestamp())  # one made later would be good as well
        with ExitStack() as stack:
            own = [stack.enter_context(fleet.server.stream(user)).until_live() for _ in range(3)]
            other = stack.enter_context(fleet.server.stream(f"{user}-2")).until_live()
            stays = Stream(stack.enter_context(fleet.server.socket(None, additional_headers=newer))).until_live()
            client = stack.enter_context(fleet.server.client(user))
            path, accept = f"/v1/runs/{run_id}/events", {"Accept": "text/event-stream"}
            events = stack.enter_context(client.stream("GET", path, headers=accept))
            old_ticket = client.post("/v1/tickets").json()["ticket"]
            with another_process(fleet.settings) as revoke:
                revoke(user)
                assert [stream.closed_with(WITHIN_S) for stream in own] == [4401] * 3
                assert events.read().count(b"data:") == 1  # the run is queued, the stream has ended
            assert client.get("/v1/me").status_code == 401
            with fleet.server.socket(None) as late:
                late.send(json.dumps({"t": "hello", "v": 1, "ticket": old_ticket, "after": 0}))
                assert close_code(late) == 4401
            with fleet.server.socket(None, additional_headers=old) as late:
                assert close_code(late) == 4401
            for stream in (stays, other):
                stream.send(t="run.cancel", ref="a", run_id="0" * 32)
                assert stream.answer("a")["problem"]["code"] == "not_found"

    @pytest.mark.parametrize("reads", [True, False])
    def test_a_replay_that_is_under_way_ends_too(self, fleet: Fleet, user: str, *, reads: bool) -> None:
        run = fleet.worker.start(user, fleet.server.submit(user))
        for _ in range(5):
            fleet.worker.say(run, *["x" * 60_000] * 20)
        open_before = metric(fleet.server, "lanewise_sockets ")
        with wire(fleet.server) as slow, fleet.server.client(f"admin-{user}") as admin:
            slow.raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            slow.send(handshake(fleet.server, user))
            assert slow.head()[0] == 101
            slow.send(frame(TEXT, b'{"t":"hello","v":1,"after":0}'))
            assert slow.json()["t"] == "welcome"
            admin.headers["Authorization"] = f"Bearer {fleet.server.token(f'admin-{user}', scopes=('admin',))}"
            assert admin.post(f"/v1/admin/users/{user}/revoke").status_code == 200
            if reads:
                *events, end = slow.rest()
                assert (close_code_of(end), len(events) <= FRAMES_PER_WRITE) == (4401, True)
            else:
                assert wait_until(
                    lambda: metric(fleet.server, "lanewise_sockets ") == open_before, WRITE_DEADLINE_S / 2
                )

    def test_a_ticket_from_before_prolongs_nothing(self, fleet: Fleet, user: str) -> None:
        newer = bearer(fleet.settings, user, datetime.now(UTC).timestamp() + 5)
        with fleet.server.socket(None, additional_headers=newer) as connection, fleet.server.client(user) as client:
            stream = Stream(connection).until_live()
            ticket = client.post("/v1/tickets").json()["ticket"]
            with another_process(fleet.settings) as revoke, fleet.server.stream(user) as old:
                revoke(user)
                assert old.closed_with(WITHIN_S) == 4401
            stream.send(t="auth", ref="a", ticket=ticket)
            assert stream.answer("a")["problem"]["code"] == "unauthorized"


class TestMemory:
    @staticmethod
    def identity(user_id: str, issued_at: datetime) -> Identity:
        return Identity(user_id, frozenset(), issued_at, issued_at + timedelta(hours=1))

    @staticmethod
    def store(session: sa.orm.Session, user_id: str, at: datetime) -> None:
        session.execute(sa.text("INSERT INTO revocations VALUES (:user_id, :at)"), {"user_id": user_id, "at": at})

    def test_more_users_than_are_kept_in_memory_are_refused_all_the_same(self, apart: Home) -> None:
        now = datetime.now(UTC)
        with apart.services.database.system_session() as session:
            for number in range(4):
                self.store(session, f"user-{number}", now - timedelta(days=4 - number))
        for late in range(2):  # found at the start, and learned one by one
            known = Revocations(apart.services.database, lambda *_: None, most=2)
            with closing_loop(known):
                for number in range(4 + late):
                    at = now - timedelta(days=4 - number)
                    with pytest.raises(UnauthorizedError):
                        known.check(self.identity(f"user-{number}", at))
                    known.check(self.identity(f"user-{number}", at + timedelta(seconds=1)))
                    if late and number == 3:
                        with apart.services.database.system_session() as session:
                            self.store(session, "user-4", now)
                        known.tick()
                known.check(self.identity("never-revoked", now - timedelta(days=9)))
                assert len(known._known) == 2

    def test_the_later_of_two_counts_whichever_is_learned_last(self, apart: Home) -> None:
        now = datetime.now(UTC)
        known = Revocations(apart.services.database, lambda *_: None)
        with closing_loop(known):
            known.learn("twice", now)
            known.learn("twice", now - timedelta(minutes=5))  # as a tick that had read before the second
            with pytest.raises(UnauthorizedError):
                known.check(self.identity("twice", now - timedelta(minutes=1)))

    def test_a_revocation_that_commits_late_is_not_missed(self, apart: Home) -> None:
        now, database = datetime.now(UTC), apart.services.database
        known = Revocations(database, lambda *_: None)
        with closing_loop(known):
            with database.system_session() as slow:
                self.store(slow, "slow", now - timedelta(seconds=30))
                with database.system_session() as fast:
                    self.store(fast, "fast", now)
                known.tick()
            known.tick()
            for user_id in ("slow", "fast"):
                with pytest.raises(UnauthorizedError):
                    known.check(self.identity(user_id, now - timedelta(minutes=1)))


@contextmanager
def closing_loop(loop: Revocations) -> Iterator[None]:
    try:
        yield
    finally:
        loop.stop()
