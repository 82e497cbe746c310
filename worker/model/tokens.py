"""`TokenStream`: text that comes in many small pieces goes on in fewer: each event is stored, sent and counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

DELAY_S = 0.04
MAX_CHARS = 2000  # also with every character escaped well below the 64 KiB of an event


class TokenStream:
    """Collects pieces and hands them on after 40 ms, or 2,000 characters. A context manager: its end hands on the rest.

    Args:
        emit: gets the text, in order, without loss: `run.emit.token`.
    """

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit = emit
        self._text = ""
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def add(self, text: str) -> None:
        """Takes a piece of any length; to be called where the event loop runs."""
        self._text += text
        while len(self._text) >= MAX_CHARS:
            self._emit(self._text[:MAX_CHARS])
            self._text = self._text[MAX_CHARS:]
        if self._text and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(DELAY_S, self.flush)

    def flush(self) -> None:
        """Hands on what there is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._text:
            self._emit(self._text)
            self._text = ""
