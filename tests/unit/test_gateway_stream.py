"""How events are written to one WebSocket, whether its client reads or not."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import gevent  # type: ignore[import-untyped]
import pytest

from api.gateway.channel import Batch, Delivery
from api.gateway.outbox import MAX_BYTES
from api.gateway.protocol import CloseCode, StreamClosedError
from api.gateway.stream import Stream
from tests.websockets import accepted

PATIENCE_S = 20.0
TEXT_BYTES = 60_000


def events(first: int, count: int) -> Batch:
    return Batch(Delivery({"seq": first + number, "text": "x" * TEXT_BYTES}) for number in range(count))


@contextmanager
def streaming() -> Iterator[tuple[Stream, Any]]:
    """Yields a stream that has caught up with nothing, and the client's end of its connection."""
    with accepted() as (ours, theirs):
        now = datetime.now(UTC)
        nobody = cast("Any", None)  # the client asks for nothing
        stream = Stream(
            ours, cast("Any", type("Identity", (), {"expires_at": now + timedelta(hours=1)})), nobody, nobody
        )
        stream._live = True
        yield stream, theirs


def read(theirs: Any, ending: bytes) -> bytes:
    """Reads up to what must come."""
    received = bytearray()
    with gevent.Timeout(PATIENCE_S):
        while not received.endswith(ending):
            data = theirs.recv(1 << 20)
            assert data, received[-200:]
            received += data
    return bytes(received)


def test_who_reads_gets_a_batch_of_any_size_and_what_follows() -> None:
    with streaming() as (stream, theirs):
        batch, after = events(1, 150), events(151, 1)
        assert sum(len(delivery.frame) for delivery in batch) > 2 * MAX_BYTES
        reading = gevent.spawn(read, theirs, batch[-1].frame)
        gevent.sleep(0)
        stream.offer(batch)
        assert reading.get() == b"".join(delivery.frame for delivery in batch)
        stream.offer(after)
        assert read(theirs, after[0].frame) == after[0].frame


@pytest.mark.parametrize("at_once", [1, 16, 60])
def test_who_does_not_read_is_sent_away_before_much_is_kept(at_once: int) -> None:
    with streaming() as (stream, theirs):
        first, batch = 1, events(1, at_once)
        while stream._ending is None:
            stream.offer(batch)
            assert stream._outbox._bytes < MAX_BYTES + at_once * 2 * TEXT_BYTES
            gevent.sleep(0)
            first, batch = first + at_once, events(first + at_once, at_once)
            assert first * TEXT_BYTES < 3 * MAX_BYTES
        assert (stream._ending[0], len(stream._outbox)) == (CloseCode.TOO_SLOW, 0)
        assert first * TEXT_BYTES > MAX_BYTES
        reason = stream._ending[1].encode()
        assert read(theirs, reason).endswith(bytes((0x88, 2 + len(reason))) + (4408).to_bytes(2) + reason)


def test_all_who_wait_share_what_they_wait_for() -> None:
    count = 20
    with ExitStack() as stack:
        streams = [stack.enter_context(streaming())[0] for _ in range(count)]
        batch = events(1, 50)
        assert batch.portions
        tracemalloc.start()
        stack.callback(tracemalloc.stop)
        for stream in streams:
            stream.offer(batch)
        gevent.sleep(0)
        assert tracemalloc.get_traced_memory()[0] < count * TEXT_BYTES
        assert all(stream._outbox for stream in streams)


def test_what_ended_while_a_request_was_handled_is_ended_once() -> None:
    with streaming() as (stream, theirs):
        stream.end(CloseCode.GAP, "lost")
        with gevent.Timeout(PATIENCE_S):
            while not stream._socket.ended:
                gevent.sleep(0.001)
        with pytest.raises(StreamClosedError):
            stream._finish()
        theirs.sendall(b"on its way")  # has to be read, or the client gets a reset instead of our close frame
        assert read(theirs, b"lost")
