"""How much of bodies an api process holds, whose, and for how long."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest

from api import bodies
from api.operations import MAX_JSON_BYTES
from api.resources.documents import MAX_BYTES
from lanewise.process import wait_until
from tests.api_process import Server, metric
from tests.integration.api.conftest import Fleet, make_fleet
from tests.services import Servers
from tests.websockets import Wire, wire

PATIENCE_S = 10.0
AT_ONCE = bodies.MAX_BYTES_PER_USER // MAX_BYTES
COUNTED = b"x" * (bodies.SMALL_BYTES + 1)
CHUNKED = "Transfer-Encoding: chunked"


@pytest.fixture(scope="module")
def hasty(servers: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with make_fleet(servers, tmp_path_factory.mktemp("hasty") / "api.log", app="tests.hasty_api:app") as made:
        yield made


def of_length(size: int) -> str:
    return f"Content-Length: {size}"


def ask(connection: Wire, server: Server, user: str, line: str, *headers: str) -> None:
    """Sends the head of a request."""
    fields = ("Host: lanewise.test", f"Authorization: Bearer {server.token(user)}", *headers)
    connection.send("\r\n".join([f"{line} HTTP/1.1", *fields, "", ""]).encode())


def put(connection: Wire, server: Server, user: str, length: str = of_length(MAX_BYTES), sent: bytes = b"") -> None:
    """Begins to store a document `a`."""
    ask(connection, server, user, "PUT /v1/documents/a", length)
    connection.send(sent)


def holds(server: Server, size: int) -> bool:
    """Waits until the process holds so many bytes of bodies."""
    return wait_until(lambda: metric(server, "lanewise_body_bytes ") == size, PATIENCE_S)


def rest(connection: Wire) -> int:
    """Reads up to the end of the connection; returns how many bytes came."""
    size = 0
    while piece := connection.raw.recv(1 << 20):
        size += len(piece)
    return size


def is_refused(answer: httpx.Response) -> bool:
    assert answer.status_code == 429, answer.text
    return answer.json()["code"] == "quota_exceeded" and int(answer.headers["Retry-After"]) >= 1


def uploads(stack: ExitStack, server: Server, user: str) -> list[Wire]:
    """Begins as many as the user may have at once; none of them sends its last byte."""
    connections = [stack.enter_context(wire(server)) for _ in range(AT_ONCE)]
    for connection in connections:
        put(connection, server, user, sent=b"x" * 1000)
    return connections


def test_a_further_upload_of_a_user_is_refused_until_one_has_ended(fleet: Fleet, user: str) -> None:
    server = fleet.server
    with ExitStack() as stack, server.client(user) as client, server.client(f"{user}-2") as other:
        first, *_ = uploads(stack, server, user)
        assert holds(server, bodies.MAX_BYTES_PER_USER)
        unsent = stack.enter_context(wire(server))
        put(unsent, server, user)
        assert unsent.head()[0] == 429
        assert is_refused(client.put("/v1/documents/b", content=COUNTED))
        assert is_refused(client.post("/v1/runs", content=COUNTED))
        assert client.put("/v1/documents/b", content=COUNTED[1:]).status_code == 201
        assert other.put("/v1/documents/b", content=COUNTED).status_code == 201
        first.send(b"x" * (MAX_BYTES - 1000))
        assert first.head()[0] == 201
        assert client.put("/v1/documents/b", content=COUNTED).status_code == 200
        assert client.get("/v1/documents/a").content == b"x" * MAX_BYTES
    assert holds(server, 0)


def test_all_users_together_have_a_bound(fleet: Fleet, user: str) -> None:
    server = fleet.server
    with ExitStack() as stack, server.client(user) as client:
        for number in range(bodies.MAX_BYTES // bodies.MAX_BYTES_PER_USER):
            uploads(stack, server, f"{user}-{number}")
        assert holds(server, bodies.MAX_BYTES)
        assert is_refused(client.put("/v1/documents/b", content=COUNTED))
        assert client.put("/v1/documents/b", content=b"x").status_code == 201
    assert holds(server, 0)


def test_downloads_count_until_they_are_taken(fleet: Fleet, user: str) -> None:
    server = fleet.server
    with ExitStack() as stack, server.client(user) as client, server.client(f"{user}-2") as other:
        for owner in (client, other):
            assert owner.put("/v1/documents/a", content=b"x" * MAX_BYTES).status_code == 201
        connections = [stack.enter_context(wire(server)) for _ in range(AT_ONCE)]
        for connection in connections:
            ask(connection, server, user, "GET /v1/documents/a", "Connection: close")
            assert connection.head()[0] == 200
        assert is_refused(client.get("/v1/documents/a"))
        assert client.head("/v1/documents/a").status_code == 429
        assert len(other.get("/v1/documents/a").content) == MAX_BYTES
        rest(connections[0])
        assert holds(server, bodies.MAX_BYTES_PER_USER - MAX_BYTES)
        assert client.head("/v1/documents/a").headers["Content-Length"] == str(MAX_BYTES)
        assert len(client.get("/v1/documents/a").content) == MAX_BYTES
    assert holds(server, 0)


def test_a_body_that_does_not_come_to_its_end_is_cut_and_gives_its_place_back(hasty: Fleet, user: str) -> None:
    server = hasty.server
    with ExitStack() as stack, server.client(user) as client:
        for connection in uploads(stack, server, user):
            status, headers = connection.head()
            assert (status, headers["connection"]) == (408, "close")
            rest(connection)
        assert holds(server, 0)
        assert client.get("/v1/documents").json()["items"] == []
        assert client.put("/v1/documents/a", content=COUNTED).status_code == 201


@pytest.mark.parametrize(
    ("length", "sent"),
    [
        (of_length(100), b"{"), (of_length(MAX_JSON_BYTES), b"{"), (CHUNKED, b"5\r\n{"), (CHUNKED, b""),
        (CHUNKED, b"1\r\n{\r\n0\r\n"),
    ],
)  # fmt: skip
def test_so_is_json(hasty: Fleet, user: str, length: str, sent: bytes) -> None:
    with wire(hasty.server) as connection:
        ask(connection, hasty.server, user, "POST /v1/runs", length, "Content-Type: application/json")
        connection.send(sent)
        assert connection.head()[0] == 408
        rest(connection)


def test_a_reader_that_is_too_slow_is_cut_and_gives_its_place_back(hasty: Fleet, user: str) -> None:
    server = hasty.server
    with wire(server) as connection, server.client(user) as client:
        assert client.put("/v1/documents/a", content=b"x" * MAX_BYTES).status_code == 201
        ask(connection, server, user, "GET /v1/documents/a")
        assert connection.head()[0] == 200
        assert holds(server, 0)
        assert rest(connection) < MAX_BYTES // 2  # else it was there before anybody had to wait


@pytest.mark.parametrize("length", [of_length(MAX_BYTES), CHUNKED])
@pytest.mark.parametrize("ending", ["closed", "half closed"])
def test_who_hangs_up_gives_the_place_back_and_has_stored_nothing(
    fleet: Fleet, user: str, length: str, ending: str
) -> None:
    server = fleet.server
    with wire(server) as connection:
        put(connection, server, user, length, b"100\r\n" + b"x" * 100)
        assert holds(server, MAX_BYTES)
        if ending == "half closed":
            connection.raw.shutdown(socket.SHUT_WR)
            assert connection.head()[0] == 400
    assert holds(server, 0)
    with server.client(user) as client:
        assert client.get("/v1/documents").json()["items"] == []


@pytest.mark.parametrize("sent", [b"x\r\n", b"1\r\nxyz", b"1\r\nx\r\n0\r\n:\r\n\r\n"])
def test_chunks_that_are_none(fleet: Fleet, user: str, sent: bytes) -> None:
    with wire(fleet.server) as connection:
        put(connection, fleet.server, user, CHUNKED, sent)
        status, headers = connection.head()
        assert (status, headers["connection"]) == (400, "close")
        rest(connection)


def test_chunks_together_have_the_limit_of_a_document(remote: httpx.Client) -> None:
    def content(size: int) -> Iterator[bytes]:
        for start in range(0, size, 1 << 20):
            yield b"x" * min(1 << 20, size - start)

    answer = remote.put("/v1/documents/a", content=content(MAX_BYTES + 1))
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert remote.get("/v1/documents").json()["items"] == []
    assert remote.put("/v1/documents/a", content=content(MAX_BYTES)).json()["size"] == MAX_BYTES
    assert remote.put("/v1/documents/a", content=content(0)).json()["size"] == 0
    assert remote.get("/v1/documents/a").content == b""


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("PUT", "/v1/documents/%00", 422), ("POST", "/nope", 404), ("POST", "/v1/runs", 413), ("GET", "/v1/me", 200)],
)
def test_what_was_not_read_of_a_body_is_no_request(
    fleet: Fleet, user: str, method: str, path: str, status: int
) -> None:
    request = f"DELETE /v1/documents/a HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {fleet.server.token(user)}\r\n\r\n"
    with fleet.server.client(user, limits=httpx.Limits(max_connections=1)) as client:
        assert client.put("/v1/documents/a", content=b"x").status_code == 201
        answer = client.request(method, path, content=request.encode() * 10_000)
        assert answer.status_code == status
        assert client.get("/v1/documents/a").content == b"x"


def test_what_is_left_of_a_refused_body_is_not_waited_for(hasty: Fleet, user: str) -> None:
    with wire(hasty.server) as connection:
        put(connection, hasty.server, user, of_length(MAX_BYTES + 1), b"x" * 1000)
        assert connection.head()[0] == 413
        rest(connection)
