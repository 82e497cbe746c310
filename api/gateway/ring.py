"""The last frames of a user's stream, kept for clients that come back together: one reading of the log serves all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Sequence
from itertools import islice

MAX_FRAMES = 500
MAX_BYTES = 256 * 1024
MAX_BYTES_IN_ALL = 32 * 1024 * 1024  # of a process; its channels share that evenly
KEPT_S = 30.0  # long enough for those who were cut together; what is deleted must not live on here
OVERHEAD = 128  # bytes of memory that a frame takes beside its own


class Ring:
    """Frames without a gap, the newest last. Its owner guards it.

    Args:
        limit: how many bytes it may keep.
    """

    def __init__(self, limit: int = MAX_BYTES) -> None:
        self._limit = limit
        self._frames: deque[tuple[float, bytes]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """How many frames there are."""
        return len(self._frames)

    def append(self, frames: Iterable[bytes]) -> None:
        """Adds frames after the newest; the oldest make room."""
        now = time.monotonic()
        for frame in frames:
            self._frames.append((now, frame))
            self._bytes += len(frame) + OVERHEAD
        self._shrink()

    def prepend(self, frames: Sequence[bytes]) -> None:
        """Adds frames before the oldest, all or none."""
        size = sum(len(frame) + OVERHEAD for frame in frames)
        if len(self._frames) + len(frames) <= MAX_FRAMES and self._bytes + size <= self._limit:
            # None is kept longer for those that come before it, as `trim` goes by the oldest.
            since = self._frames[0][0] if self._frames else time.monotonic()
            self._frames.extendleft((since, frame) for frame in reversed(frames))
            self._bytes += size

    def newest(self, count: int) -> list[bytes]:
        """Returns so many frames, in their order."""
        return [frame for _, frame in islice(self._frames, len(self._frames) - count, None)]

    def clear(self) -> None:
        """Forgets all."""
        self._frames.clear()
        self._bytes = 0

    def trim(self, limit: int) -> None:
        """Sets the limit anew, and forgets what is above it or too old."""
        self._limit = limit
        self._shrink()
        while self._frames and self._frames[0][0] < time.monotonic() - KEPT_S:
            self._drop()

    def _shrink(self) -> None:
        while self._bytes > self._limit or len(self._frames) > MAX_FRAMES:
            self._drop()

    def _drop(self) -> None:
        _, frame = self._frames.popleft()
        self._bytes -= len(frame) + OVERHEAD
