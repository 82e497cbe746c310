"""How many may follow: in all, and from one address, signed in or not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import gevent  # type: ignore[import-untyped]
import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from api.gateway.protocol import MAX_SOCKETS_PER_USER, CloseCode
from api.gateway.routes import stream
from api.gateway.socket import StreamSocket
from api.state import EXTENSION
from lanewise.process import wait_until
from tests.api_process import Server, Stream, close_code
from tests.integration.api.conftest import Fleet, Home, make_fleet
from tests.integration.api.test_sse import ACCEPT
from tests.services import Servers
from tests.websockets import TEXT, accepted, frame

IN_ALL, OF_ADDRESS = 5, 3
PATIENCE_S = 10.0


@pytest.fixture(scope="module")
def small(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """An api process that takes few connections; its proxy is on this machine."""
    env = {"GATEWAY_SOCKETS": str(IN_ALL), "ADDRESS_SOCKETS": str(OF_ADDRESS)}
    with make_fleet(servers, tmp_path_factory.mktemp("small") / "api.log", env) as made:
        yield made


def silent(stack: ExitStack, server: Server, address: str) -> ClientConnection:
    """Opens a socket that says nothing, as if by a proxy from an address."""
    return stack.enter_context(server.socket(None, additional_headers={"X-Forwarded-For": f"1.1.1.1, {address}"}))


def test_an_address_and_all_together_are_limited_before_anybody_signs_in(small: Fleet, user: str) -> None:
    server = small.server
    run_id = server.submit(user)
    with ExitStack() as stack, server.client(user) as client:
        first = silent(stack, server, "203.0.113.1")
        for _ in range(OF_ADDRESS - 1):
            silent(stack, server, "203.0.113.1")
        refused = silent(stack, server, "203.0.113.1")
        assert close_code(refused) == CloseCode.OVERLOADED
        for _ in range(IN_ALL - OF_ADDRESS):
            silent(stack, server, "203.0.113.2")
        with pytest.raises(ConnectionClosed) as caught:
            silent(stack, server, "203.0.113.3").recv(timeout=5)
        assert caught.value.rcvd is not None
        assert (caught.value.rcvd.code, str(IN_ALL) in caught.value.rcvd.reason) == (1013, True)
        answer = client.get(f"/v1/runs/{run_id}/events", headers=ACCEPT)
        assert (answer.status_code, answer.json()["code"]) == (429, "quota_exceeded")
        assert int(answer.headers["Retry-After"]) >= 1
        assert client.get("/v1/me").status_code == 200
        first.close()

        def has_place() -> bool:
            with server.socket(user) as connection:
                try:
                    return Stream(connection).welcome["recovered"] is True
                except ConnectionClosed:
                    return False

        assert wait_until(has_place, 5)


def test_a_further_stream_of_a_user_is_refused_and_replaces_none(fleet: Fleet, user: str) -> None:
    run_id = fleet.server.submit(user)
    path = f"{fleet.server.url}/v1/runs/{run_id}/events"
    headers = {**ACCEPT, "Authorization": f"Bearer {fleet.server.token(user)}"}
    limits = httpx.Limits(max_connections=None)
    with ExitStack() as stack, httpx.Client(limits=limits, timeout=30) as client:
        streams = [
            stack.enter_context(client.stream("GET", path, headers=headers)) for _ in range(MAX_SOCKETS_PER_USER)
        ]
        assert {answer.status_code for answer in streams} == {200}
        assert client.get(path, headers=headers).status_code == 429
        assert client.post(path.replace("events", "cancel"), headers=headers).status_code == 202
        assert all(answer.read().count(b"data:") == 2 for answer in streams)


def serve(home: Home, socket: StreamSocket) -> None:
    with home.app.test_request_context("/v1/stream"):
        stream(socket)


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients that do not close are waited for until they do."""
    monkeypatch.setattr("api.gateway.stream.LINGER_S", 10 * PATIENCE_S)


@pytest.mark.usefixtures("endless")
def test_who_is_being_closed_has_its_place_still(home: Home) -> None:
    manager = home.app.extensions[EXTENSION].manager
    with accepted() as (ours, theirs):
        serving = gevent.spawn(serve, home, ours)
        theirs.sendall(frame(TEXT, b"no hello"))
        with gevent.Timeout(PATIENCE_S):
            while theirs.recv(4096):
                pass
        assert manager._admitted == 1
        theirs.close()
        serving.get(timeout=PATIENCE_S)
        assert manager._admitted == 0


@pytest.mark.usefixtures("endless")
def test_who_is_refused_is_not_waited_for(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(home.app.extensions[EXTENSION].manager, "_most", 0)
    with accepted() as (ours, theirs):
        gevent.spawn(serve, home, ours).get(timeout=PATIENCE_S)
        assert theirs.recv(4)[2:] == (1013).to_bytes(2)
