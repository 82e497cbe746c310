"""`Outbox`: what waits to be written to one client that follows, bounded by frames and by bytes."""

from __future__ import annotations

from collections import deque

from api.gateway.protocol import BYTES_PER_WRITE, FRAMES_PER_WRITE

MAX_FRAMES = 4096
MAX_BYTES = 4 * 1024 * 1024


class Outbox:
    """Frames in their order, each with its number. No greenlet switches in here, so it needs no lock.

    A single batch may be more than may wait. So who puts one in asks before whether it `is_full`: then its client has
    had a chance to read what came earlier, and did not.
    """

    def __init__(self) -> None:
        self._frames: deque[tuple[int, bytes]] = deque()  # all else of an event would double its memory
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def is_full(self) -> bool:
        """Whether more waits than may."""
        return len(self._frames) > MAX_FRAMES or self._bytes > MAX_BYTES

    def put(self, number: int, frame: bytes) -> None:
        """Adds a frame."""
        self._frames.append((number, frame))
        self._bytes += len(frame)

    def take(self) -> list[tuple[int, bytes]]:
        """Takes out what the next write is of; see `protocol.portions`. Nothing if nothing waits."""
        batch: list[tuple[int, bytes]] = []
        size = 0
        while self._frames and len(batch) < FRAMES_PER_WRITE and size < BYTES_PER_WRITE:
            batch.append(self._frames.popleft())
            size += len(batch[-1][1])
        self._bytes -= size
        return batch

    def clear(self) -> None:
        """Drops all."""
        self._frames.clear()
        self._bytes = 0
