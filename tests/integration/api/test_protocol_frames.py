"""RFC 6455 frame by frame, by hand: what is right is served, what is wrong is told so, and nothing is left behind."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.gateway.protocol import MAX_MESSAGE_BYTES
from api.gateway.socket import BURST
from lanewise.process import wait_until
from shared.ids import new_id
from tests.api_process import Server, Stream
from tests.integration.api.conftest import Fleet
from tests.websockets import (
    BINARY,
    CLOSE,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Frame,
    close_code,
    close_frame,
    frame,
    handshake,
    live,
    wire,
)  # fmt: skip

REQUEST = b'{"t":"run.cancel","ref":"1","run_id":"none","\xc3\xa9\xf0\x9f\x92\xa1":"\xf4\x8f\xbf\xbf\xef\xbf\xbf"}'
PART = 700_000


@pytest.fixture(scope="module")
def neighbour(shared_fleet: Fleet) -> Iterator[Stream]:
    """A well-behaved connection that is there all the time. When all is over the server has no other one.

    Not even to a client that is told to go, because its token expires, and stays.
    """
    server = shared_fleet.server
    with server.stream(f"neighbour-{new_id()}", after=None) as stream, wire(server) as deaf:
        deaf.send(handshake(server, "deaf", Authorization=f"Bearer {server.token('deaf', ttl_s=3)}"))
        assert deaf.head()[0] == 101
        deaf.hello()
        yield stream.until_live()
        assert close_code(deaf.rest()[-1]) == 4401
        assert wait_until(lambda: connections(server) == 1, 15)
        with server.client("anybody") as client:
            lines = client.get("/metrics").text.splitlines()
        assert "lanewise_sockets 1.0" in lines
        for code in (1002, 1007, 1009, 4400, 4401, 4429):
            assert any(line.startswith(f'lanewise_socket_closes_total{{code="{code}"}}') for line in lines), code


def connections(server: Server) -> int:
    """Returns how many connections the server has."""
    port, main = int(server.url.rpartition(":")[2]), psutil.Process(server.process.pid)
    found = {c for process in (main, *main.children()) for c in process.net_connections("tcp") if c.laddr.port == port}
    return sum(c.status != psutil.CONN_LISTEN for c in found)


@pytest.fixture(autouse=True)
def the_neighbour_is_served(neighbour: Stream) -> Iterator[None]:
    """After each test a request of its own is answered."""
    yield
    ref = new_id()
    neighbour.send(t="run.cancel", ref=ref, run_id="none")
    assert neighbour.answer(ref)["problem"]["status"] == 404


def split(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def fragments(parts: list[bytes], between: bytes = b"", opcode: int = TEXT) -> bytes:
    """Returns a message in as many frames as there are parts, with something between them."""
    frames = [
        frame(CONTINUATION if number else opcode, part, fin=number == len(parts) - 1)
        for number, part in enumerate(parts)
    ]
    return between.join(frames)


SERVED: dict[str, bytes] = {
    "a message": frame(TEXT, REQUEST),
    "masked with zeros": frame(TEXT, REQUEST, mask=b"\0\0\0\0"),
    "a length of 16 bits": frame(TEXT, REQUEST.ljust(126)),
    "a length of 64 bits": frame(TEXT, REQUEST.ljust(1 << 16)),
    "as long as may be": frame(TEXT, REQUEST.ljust(MAX_MESSAGE_BYTES)),
    "as long as may be, in parts": fragments(split(REQUEST.ljust(MAX_MESSAGE_BYTES), PART)),
    "one byte in each frame": fragments(split(REQUEST, 1)),
    "pings among the parts": fragments(split(REQUEST, 5), frame(PING, b"between")),
    "pongs among the parts": fragments(split(REQUEST, 5), frame(PONG, b"unasked")),
    "empty parts": fragments([b"", b"", REQUEST[:9], b"", REQUEST[9:], b""]),
    "unasked pongs": frame(PONG) + frame(PONG, b"x" * 125) + frame(TEXT, REQUEST),
}


@pytest.mark.parametrize("sent", SERVED.values(), ids=SERVED)
def test_what_is_right_is_served(fleet: Fleet, user: str, sent: bytes) -> None:
    with live(fleet.server, user) as connection:
        connection.send(sent)
        assert connection.json()["ref"] == "1"
        connection.send(frame(TEXT, REQUEST))
        assert connection.json()["ref"] == "1"
        connection.send(close_frame(1000))
        assert list(map(close_code, connection.rest())) == [1000]


def test_a_message_that_comes_byte_by_byte_is_served(fleet: Fleet, user: str) -> None:
    with live(fleet.server, user) as connection:
        for byte in frame(TEXT, REQUEST) + fragments(split(REQUEST, 7), frame(PING)):
            connection.send(bytes((byte,)))
        assert [connection.json()["ref"], connection.json()["ref"]] == ["1", "1"]


def test_messages_in_one_write_are_answered_in_order(fleet: Fleet, user: str) -> None:
    with live(fleet.server, user) as connection:
        connection.send(b"".join(frame(TEXT, REQUEST.replace(b'"1"', b'"%d"' % n)) for n in range(100)))
        assert [connection.json()["ref"] for _ in range(100)] == [str(n) for n in range(100)]


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(125))])
def test_a_pong_has_the_pings_payload(fleet: Fleet, user: str, payload: bytes) -> None:
    with live(fleet.server, user) as connection:
        connection.send(frame(PING, payload))
        assert connection.read() == Frame(PONG, payload)


LONG = b"\x7f" + struct.pack("!Q", (1 << 63) - 1)
CLOSED: dict[str, tuple[int, bytes]] = {
    "a continuation of nothing": (1002, frame(CONTINUATION, REQUEST)),
    "a continuation of a whole message": (1002, frame(TEXT, REQUEST) + frame(CONTINUATION, REQUEST)),
    "a message inside another": (1002, frame(TEXT, b"{", fin=False) + frame(TEXT, REQUEST)),
    "a reserved bit in a part": (1002, frame(TEXT, b"{", fin=False) + frame(CONTINUATION, b"}", rsv=4)),
    "no mask": (1002, frame(TEXT, REQUEST, mask=None)),
    "a ping without a mask": (1002, frame(PING, mask=None)),
    "a ping of 126 bytes": (1002, frame(PING, b"x" * 126)),
    "a pong of 64 KiB": (1002, frame(PONG, b"x" * (1 << 16))),
    "a close frame of 126 bytes": (1002, close_frame(1000, b"x" * 124)),
    "a ping in parts": (1002, frame(PING, b"x", fin=False) + frame(CONTINUATION, b"x")),
    "a close frame in parts": (1002, frame(CLOSE, fin=False)),
    "a length that needs not 16 bits": (1002, frame(TEXT, b"{}", length=b"\x7e\0\2")),
    "a length that needs not 64 bits": (1002, frame(TEXT, b"{}", length=b"\x7f" + struct.pack("!Q", 2))),
    "a length of 64 bits, all set": (1002, frame(TEXT, b"{}", length=b"\x7f" + b"\xff" * 8)),
    "a byte more than may be": (1009, frame(TEXT, b" " * (MAX_MESSAGE_BYTES + 1))),
    "a byte more than may be, in parts": (1009, fragments(split(b" " * (MAX_MESSAGE_BYTES + 1), PART))),
    "far more than may be, in ever more parts": (1009, fragments([b" " * PART] * 9)[:-PART]),
    "a length of 2^63 - 1": (1009, frame(TEXT, b" " * (MAX_MESSAGE_BYTES + 1), length=LONG)),
    "more bytes than may be, in fewer characters": (1009, frame(TEXT, b"\xc3\xa9" * (MAX_MESSAGE_BYTES // 2 + 1))),
    "bytes": (4400, frame(BINARY, REQUEST)),
    "bytes, in parts": (4400, frame(BINARY, b"{", fin=False)),
    "no JSON": (4400, frame(TEXT, b"{")),
    "an empty message": (4400, frame(TEXT)),
    "an empty message, in parts": (4400, fragments([b""] * 5)),
    "no object": (4400, frame(TEXT, b"[]")),
    "an unknown frame": (4400, frame(TEXT, b'{"t":"x"}')),
    "a flood of pings": (4429, frame(PING) * int(BURST + 2000)),
    "a flood of pongs": (4429, frame(PONG) * int(BURST + 2000)),
    "a flood of empty parts": (4429, frame(TEXT, fin=False) + frame(CONTINUATION, fin=False) * int(BURST + 2000)),
}
CLOSED |= {f"reserved bits {rsv}": (1002, frame(TEXT, REQUEST, rsv=rsv)) for rsv in range(1, 8)}
CLOSED |= {f"reserved bits {rsv} of a ping": (1002, frame(PING, rsv=rsv)) for rsv in (1, 2, 4)}
CLOSED |= {f"opcode {opcode}": (1002, frame(opcode, REQUEST)) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)}
NOT_UTF8 = {
    "a byte that never is": b"\xff", "a lone continuation": b"\x80", "overlong slash": b"\xc0\xaf",
    "overlong, three bytes": b"\xe0\x80\xaf", "a surrogate": b"\xed\xa0\x80", "above U+10FFFF": b"\xf4\x90\x80\x80",
    "five bytes": b"\xf8\x88\x80\x80\x80", "broken off inside": b"\xe2\x82 ",
}  # fmt: skip
for name, bad in NOT_UTF8.items():
    CLOSED[f"{name}"] = (1007, frame(TEXT, b'{"' + bad + b'":1}'))
    CLOSED[f"{name}, over two parts"] = (1007, fragments([b'{"' + bad[:1], bad[1:] + b'":1}']))
    CLOSED[f"{name}, the rest yet to come"] = (1007, frame(TEXT, b'{"' + bad + b"x", fin=False))
    CLOSED[f"{name}, in a frame of which more is to come"] = (1007, frame(TEXT, b"{" + bad + b"x", length=LONG))
    CLOSED[f"{name}, in a reason"] = (1007, close_frame(1000, bad))
CLOSED["a character that is not ended"] = (1007, frame(TEXT, b'{"\xe2\x82'))


@pytest.mark.parametrize(("code", "sent"), CLOSED.values(), ids=CLOSED)
def test_what_is_wrong_is_told_so(fleet: Fleet, user: str, code: int, sent: bytes) -> None:
    with live(fleet.server, user) as connection:
        connection.send(sent)
        *before, last = connection.rest()
        assert close_code(last) == code
        assert all(found.opcode in {PONG, TEXT} for found in before)


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1011, 1012, 1013, 3000, 3999, 4000, 4999])
def test_a_close_frame_is_answered_with_its_code(fleet: Fleet, user: str, code: int) -> None:
    with live(fleet.server, user) as connection:
        connection.send(close_frame(code, "wegen \N{ELECTRIC LIGHT BULB}".encode()))
        assert list(map(close_code, connection.rest())) == [code]


def test_an_empty_close_frame_is_answered(fleet: Fleet, user: str) -> None:
    with live(fleet.server, user) as connection:
        connection.send(frame(CLOSE))
        assert [close_code(found) for found in connection.rest()] in ([None], [1000])


@pytest.mark.parametrize("payload", [b"\3", *(struct.pack("!H", code) for code in (
    0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535))])  # fmt: skip
def test_a_close_frame_without_a_valid_code(fleet: Fleet, user: str, payload: bytes) -> None:
    with live(fleet.server, user) as connection:
        connection.send(frame(CLOSE, payload))
        assert list(map(close_code, connection.rest())) == [1002]


def test_after_a_close_frame_nothing_counts(fleet: Fleet, user: str) -> None:
    with live(fleet.server, user) as connection:
        connection.send(close_frame(1000) + frame(TEXT, REQUEST) * 100 + frame(TEXT, REQUEST, mask=None))
        assert list(map(close_code, connection.rest())) == [1000]


def test_a_close_frame_inside_a_message_ends_it(fleet: Fleet, user: str) -> None:
    with live(fleet.server, user) as connection:
        connection.send(frame(TEXT, REQUEST, fin=False) + close_frame(1001))
        assert list(map(close_code, connection.rest())) == [1001]


@pytest.mark.parametrize("sent", [b"", frame(TEXT, REQUEST)[:20], frame(TEXT, REQUEST, fin=False), b"\x81"])
def test_a_client_that_has_said_its_last_is_sent_home(fleet: Fleet, user: str, sent: bytes) -> None:
    with live(fleet.server, user) as connection:
        connection.send(sent)
        connection.raw.shutdown(socket.SHUT_WR)
        assert list(map(close_code, connection.rest())) == [1000]


@pytest.mark.parametrize("sent", [b"", frame(TEXT, REQUEST)[:20], frame(TEXT, REQUEST) * 200, frame(PING) * 500])
def test_a_connection_that_is_reset(fleet: Fleet, user: str, sent: bytes) -> None:
    """What it leaves behind is looked for when all is over."""
    with live(fleet.server, user) as connection:
        connection.send(sent)
        connection.raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


# The handshake


@pytest.mark.parametrize(
    ("status", "changes"),
    [
        (400, {"Sec_WebSocket_Key": None}),
        (400, {"Sec_WebSocket_Key": "c2hvcnQ="}),
        (400, {"Sec_WebSocket_Key": "no base64"}),
        (400, {"Sec_WebSocket_Version": None}),
        (400, {"Upgrade": "h2c"}),
        (400, {"Connection": "keep-alive"}),
        (400, {"Host": "\xff\xff"}),
        (426, {"Sec_WebSocket_Version": "8"}),
        (426, {"Sec_WebSocket_Version": "13, 8"}),
        (431, {"X_Long": "x" * 9000}),
        (431, {f"X_{number}": "x" for number in range(200)}),
    ],
)
def test_what_is_no_handshake_gets_an_answer(fleet: Fleet, user: str, status: int, changes: dict[str, Any]) -> None:
    with wire(fleet.server) as connection:
        connection.send(handshake(fleet.server, user, **changes))
        found, headers = connection.head()
    assert (found, headers.get("sec-websocket-version")) == (status, "13" if status == 426 else None)
    assert headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("status", "line"),
    [(405, b"POST /v1/stream HTTP/1.1"), (400, b"GET /v1/stream HTTP/1.0"), (404, b"GET /v1/s HTTP/1.1")],
)
def test_other_request_lines(fleet: Fleet, user: str, status: int, line: bytes) -> None:
    with wire(fleet.server) as connection:
        connection.send(handshake(fleet.server, user).replace(b"GET /v1/stream HTTP/1.1", line))
        assert connection.head()[0] == status


def test_compression_is_offered_and_not_taken(fleet: Fleet, user: str) -> None:
    with wire(fleet.server) as connection:
        connection.send(
            handshake(fleet.server, user, Sec_WebSocket_Extensions="permessage-deflate; client_max_window_bits")
        )
        status, headers = connection.head()
        assert (status, headers.get("sec-websocket-extensions")) == (101, None)
        connection.hello()
        connection.send(frame(TEXT, REQUEST, rsv=4))
        assert close_code(connection.rest()[-1]) == 1002


def test_what_comes_before_the_handshake_is_answered_may_be_passed_over(fleet: Fleet, user: str) -> None:
    with wire(fleet.server) as connection:
        connection.send(handshake(fleet.server, user) + frame(PING, b"early") + frame(PONG)[:3])
        assert connection.head()[0] == 101
        connection.hello()


# Anything at all

frames = st.builds(
    frame,
    st.sampled_from([TEXT, CONTINUATION, BINARY, CLOSE, PING, PONG, 3, 15]),
    st.sampled_from([b"", REQUEST, b"\xff", b"\x03\xe8", b"x" * 126, b"x" * 70_000]) | st.binary(max_size=20),
    fin=st.sampled_from([True, True, True, False]),
    rsv=st.sampled_from([0] * 9 + [1, 4]),
    mask=st.sampled_from([b"abcd", b"abcd", b"abcd", b"\0\0\0\0", None]),
    length=st.sampled_from([None] * 9 + [b"\x05", b"\x7e\0\1", b"\x7f" + b"\xff" * 8]),
)
KNOWN = {None, 1000, 1001, 1002, 1003, 1007, 1009, 4400, 4429}


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(frames | st.binary(max_size=30), max_size=8), st.integers(0, 60_000))
def test_any_frames_come_to_an_end(fleet: Fleet, sent: list[bytes], pause: int) -> None:
    data = b"".join(sent)
    with live(fleet.server, "anybody") as connection:
        connection.send(data[:pause])
        connection.send(data[pause:])
        with suppress(OSError):  # closed already
            connection.raw.shutdown(socket.SHUT_WR)
        *before, last = connection.rest()
        assert close_code(last) in KNOWN or 3000 <= (close_code(last) or 0) < 5000
        assert all(found.opcode == PONG or json.loads(found.payload)["t"] == "error" for found in before)
