from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import FrameError
from shared.frames import MAX_FRAME_BYTES, FrameReader, FrameSocket, FrameWriter, encode_frame

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(st.text(), values, max_size=3)


def announced(length: int, body: bytes = b"") -> bytes:
    return struct.pack("!I", length) + body


@given(st.lists(objects, max_size=5), st.data())
def test_any_chunking_of_a_stream_gives_the_same_frames(frames: list[dict[str, Any]], data: st.DataObject) -> None:
    stream = b"".join(map(encode_frame, frames))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = FrameReader()
    received: list[dict[str, Any]] = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received.extend(reader.feed(stream[start:end]))
    assert received == frames


def test_one_byte_at_a_time() -> None:
    reader = FrameReader()
    received: list[dict[str, Any]] = []
    for byte in encode_frame({"a": "ä\0😀"}) + encode_frame({}):
        received.extend(reader.feed(bytes([byte])))
    assert received == [{"a": "ä\0😀"}, {}]


def test_a_frame_as_large_as_the_limit_passes_and_one_byte_more_does_not() -> None:
    padding = MAX_FRAME_BYTES - len(b'{"a":""}')
    (frame,) = FrameReader().feed(encode_frame({"a": "x" * padding}))
    assert len(frame["a"]) == padding
    with pytest.raises(FrameError, match="limit"):
        encode_frame({"a": "x" * (padding + 1)})


def test_an_oversized_announcement_is_refused_before_its_body_comes() -> None:
    with pytest.raises(FrameError, match="announced"):
        list(FrameReader().feed(announced(MAX_FRAME_BYTES + 1)))


@pytest.mark.parametrize("value", [{"a": float("nan")}, {"a": float("inf")}, {"a": object()}, {"a": {1, 2}}])
def test_what_json_cannot_carry_is_refused(value: dict[str, Any]) -> None:
    with pytest.raises(FrameError, match="not a JSON value"):
        encode_frame(value)


def test_a_value_that_holds_itself_is_refused() -> None:
    value: dict[str, Any] = {}
    value["self"] = value
    with pytest.raises(FrameError):
        encode_frame(value)


@pytest.mark.parametrize(
    "body", [b"", b"x", b"{", b"[1]", b'"text"', b"null", b"\xff\xfe", b"{'a': 1}", b"[" * 100_000, b'{"a":1} {}']
)
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(FrameError):
        list(FrameReader().feed(announced(len(body), body)))


@given(st.binary(max_size=200))
def test_any_bytes_give_objects_or_a_frame_error(data: bytes) -> None:
    try:
        frames = list(FrameReader().feed(announced(len(data), data)))
    except FrameError:
        return
    assert frames == [json.loads(data)]


@pytest.fixture
def pair() -> Iterator[tuple[FrameSocket, socket.socket]]:
    near, far = socket.socketpair()
    near.settimeout(5)
    with near, far:
        yield FrameSocket(near), far


def test_a_socket_carries_frames_both_ways(pair: tuple[FrameSocket, socket.socket]) -> None:
    near, raw = pair
    far = FrameSocket(raw)
    for n in range(3):
        near.send({"n": n})
    assert [far.receive(), far.receive(), far.receive()] == [{"n": 0}, {"n": 1}, {"n": 2}]
    far.send({"answer": True})
    assert near.receive() == {"answer": True}


def test_the_end_of_the_stream_is_none(pair: tuple[FrameSocket, socket.socket]) -> None:
    near, far = pair
    far.sendall(encode_frame({"last": 1}))
    far.close()
    assert near.receive() == {"last": 1}
    assert near.receive() is None
    assert near.receive() is None


@pytest.mark.parametrize("sent", [2, 4, 7])
def test_a_stream_that_ends_inside_a_frame_is_an_error(pair: tuple[FrameSocket, socket.socket], sent: int) -> None:
    near, far = pair
    far.sendall(encode_frame({"last": 1})[:sent])
    far.close()
    with pytest.raises(FrameError):
        near.receive()


def test_silence_is_bounded_by_the_sockets_time_out(pair: tuple[FrameSocket, socket.socket]) -> None:
    near, _far = pair
    near.sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        near.receive()


# Out without waiting


def test_a_writer_never_waits_and_sends_the_rest_when_there_is_room() -> None:
    near, far = socket.socketpair()
    with near, far:
        writer = FrameWriter(near)
        writer.put({"n": 0})
        assert (writer.waiting, writer.stuck_s) == (False, 0)
        large = {"x": "y" * 1_000_000}
        writer.put(large)
        writer.put({"n": 1})
        assert writer.waiting
        before = writer.stuck_s
        assert before < writer.stuck_s  # nobody reads
        reader, frames = FrameReader(), list[dict[str, Any]]()
        while len(frames) < 3:
            frames.extend(reader.feed(far.recv(65_536)))
            writer.flush()
        assert frames == [{"n": 0}, large, {"n": 1}]
        assert (writer.waiting, writer.stuck_s) == (False, 0)


def test_what_is_left_for_one_that_has_ended_is_dropped() -> None:
    near, far = socket.socketpair()
    with near:
        writer = FrameWriter(near)
        writer.put({"x": "y" * 1_000_000})
        far.close()
        writer.flush()
        assert not writer.waiting
        writer.put({"n": 1})
        assert not writer.waiting
