"""The sandbox's end of the socket to its runner."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from shared.errors import (
    FrameError,
    InvalidError,
    LanewiseError,
    QuotaError,
    StateConflictError,
    SupersededError,
    TooLargeError,
    UnavailableError,
)
from shared.frames import FrameSocket

CALL_TIMEOUT_S = 30.0
START_TIMEOUT_S = 30.0
EX_RUNNER_GONE = 70


def exit_at_once() -> None:
    """Ends the sandbox, whatever it is doing: nobody is left to work for."""
    os._exit(EX_RUNNER_GONE)


class CallError(LanewiseError):
    """The runner refused a call or could not answer it; the message says why."""

    code = "call_failed"


# What a sandbox may want to tell apart.
_ERRORS: dict[str, type[LanewiseError]] = {
    cls.code: cls
    for cls in (InvalidError, QuotaError, StateConflictError, SupersededError, TooLargeError, UnavailableError)
}


class RunnerLink:
    """Frames out from any thread; one thread that reads what comes in.

    Args:
        sock: the connected socket.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._frames = FrameSocket(sock)
        self._sending = threading.Lock()
        self._calls: dict[int, Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._on_cancel: Callable[[], None] = lambda: None
        self._on_gone: Callable[[], None] = lambda: None
        self.cancelled = threading.Event()
        self.interrupts: list[Callable[[], None]] = []  # called, too, when the user asks to cancel

    def receive_start(self) -> dict[str, Any]:
        """Waits for the first frame, at most 30 seconds."""
        self._frames.sock.settimeout(START_TIMEOUT_S)
        frame = self._frames.receive()
        if frame is None or frame.get("t") != "start":
            raise FrameError("the first frame is not a start")
        self._frames.sock.settimeout(None)
        return frame

    def listen(self, on_cancel: Callable[[], None], on_gone: Callable[[], None]) -> None:
        """Starts the reading thread.

        Args:
            on_cancel: called there when the user asks to cancel.
            on_gone: called there when the runner has closed the connection.
        """
        self._on_cancel, self._on_gone = on_cancel, on_gone
        threading.Thread(target=self._read, name="lanewise-link", daemon=True).start()

    def send(self, frame: dict[str, Any]) -> None:
        """Writes a frame out; blocks while the runner is behind, which is the back-pressure on chatty agents."""
        with self._sending:
            self._frames.send(frame)

    def call(self, method: str, **parameters: Any) -> Any:
        """Asks the runner for something and waits for the answer.

        Raises:
            CallError: it was refused.
            LanewiseError: what its code says.
            UnavailableError: no answer within 30 seconds, or a store that it needs is away.
        """
        number = next(self._numbers)
        future: Future[Any] = Future()
        self._calls[number] = future
        try:
            self.send({"t": "call", "id": number, "method": method, "params": parameters})
            return future.result(CALL_TIMEOUT_S)
        except TimeoutError:
            raise UnavailableError(f"{method}: no answer within {CALL_TIMEOUT_S:g} s") from None
        finally:
            self._calls.pop(number, None)

    def _read(self) -> None:
        try:
            while (frame := self._frames.receive()) is not None:
                self._handle(frame)
        except ConnectionResetError:
            pass  # it closed without reading the last of what was sent: gone all the same
        finally:
            self._on_gone()

    def _handle(self, frame: dict[str, Any]) -> None:
        if frame["t"] == "cancel":
            self.cancelled.set()
            for interrupt in [self._on_cancel, *self.interrupts]:
                # If this thread ended, the sandbox would end as if its runner were gone. The cancel needs none of these
                # to succeed: what does not hear of it is killed when the runner's grace is over.
                with contextlib.suppress(Exception):
                    interrupt()
        elif frame["t"] == "reply" and (future := self._calls.get(frame["id"])) is not None:
            if "error" in frame:
                future.set_exception(_ERRORS.get(frame.get("code", ""), CallError)(frame["error"]))
            else:
                future.set_result(frame.get("value"))
