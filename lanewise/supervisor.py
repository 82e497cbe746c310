"""Keeps a handful of processes running, and ends them in order.

One thread, no polling faster than needed: a signal or a child's end wakes it. Start children in an order that suits
them, `wait` for what they must do first, `run` until a signal asks to stop; leaving the `with` block stops all.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Self

from lanewise.process import Process, ProcessSpec, StartError

FIRST_BACKOFF_S = 0.5
LAST_BACKOFF_S = 30.0
STEADY_S = 60.0  # who ran that long starts again with the first back-off
MOST_FAILURES_AT_START = 3
HASTE_S = 10.0  # what is left of a child's time to stop after a second signal, and before `run`
TICK_S = 1.0
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopRequested(Exception):  # noqa: N818 - not an error
    """A signal came while something was being waited for."""


@dataclass
class Child:
    """A process that shall run, whether it does at the moment or not."""

    spec: ProcessSpec
    stage: int
    process: Process
    failures: int = 0
    restart_at: float | None = None


class Supervisor:
    """Starts processes, starts them again with growing pauses when they end, stops them stage by stage.

    Signals are handled from `with` on, so it belongs in the main thread. `say` gets one line per thing worth telling.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._children: list[Child] = []
        self._signals = 0
        self._heeded = 0  # of these, those that `stop` has acted upon
        self._started = False
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        reading, writing = socket.socketpair()
        self._wake = self._stack.enter_context(reading)
        self._stack.enter_context(writing)
        reading.setblocking(False)
        writing.setblocking(False)
        self._stack.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False))
        for number in (*STOP_SIGNALS, signal.SIGCHLD):
            if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
                continue  # nohup
            before = signal.signal(number, self._on_signal)
            self._stack.callback(signal.signal, number, before or signal.SIG_DFL)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            self._stack.close()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD:
            self._signals += 1

    def start(self, spec: ProcessSpec, *, stage: int) -> None:
        """Starts a process and keeps it running.

        Args:
            spec: what to start.
            stage: when to stop it: lower stages end before higher ones are asked to.
        """
        self._children.append(Child(spec, stage, Process(spec)))

    def wait(self, condition: Callable[[], bool], timeout_s: float, what: Callable[[], str]) -> None:
        """Waits for `condition` while keeping the processes running.

        Raises:
            StopRequested: a signal came.
            StartError: not within `timeout_s` (the message is `what()`), or a process keeps ending.
        """
        deadline = time.monotonic() + timeout_s
        pause_s = 0.01
        while True:
            if self._signals:
                raise StopRequested
            self.tick()
            if condition():
                return
            if time.monotonic() >= deadline:
                raise StartError(f"not ready after {timeout_s:g} s: {what()}")
            self._sleep(pause_s)
            pause_s = min(pause_s * 1.3, 0.1)

    def run(self) -> None:
        """Keeps the processes running until a signal asks to stop."""
        self._started = True
        while not self._signals:
            self.tick()
            self._sleep(TICK_S)

    def tick(self) -> None:
        """Notices ended processes, and starts again those whose pause is over.

        Raises:
            StartError: before `run`, when a process has ended too often, or is not configured as it must be.
        """
        now = time.monotonic()
        for child in self._children:
            if child.restart_at is None:
                if child.process.exit_code is not None:
                    self._note_end(child, now)
            elif now >= child.restart_at:
                self._restart(child)

    def _note_end(self, child: Child, now: float) -> None:
        name, process = child.spec.name, child.process
        child.failures = 1 if now - process.started_at > STEADY_S else child.failures + 1
        if not self._started and process.exit_code == os.EX_CONFIG:  # it would be the same the next time
            raise StartError(f"{name} cannot start:\n{process.last_lines()}")
        if not self._started and child.failures >= MOST_FAILURES_AT_START:
            raise StartError(f"{name} {process.ending}, {child.failures} times in a row:\n{process.last_lines()}")
        pause_s = min(FIRST_BACKOFF_S * 2 ** (child.failures - 1), LAST_BACKOFF_S)
        child.restart_at = now + pause_s
        lines = process.last_lines()
        self._say(f"{name} {process.ending}, starting it again in {pause_s:g} s" + (f":\n{lines}" if lines else ""))

    def _restart(self, child: Child) -> None:
        child.process.kill_group(0)
        child.restart_at = None
        try:
            child.process = Process(child.spec)
        except StartError as error:
            child.failures += 1
            child.restart_at = time.monotonic() + LAST_BACKOFF_S
            self._say(error.message)

    def stop(self) -> None:
        """Ends all processes, stage by stage, each within its time; a second signal hastens the stage at hand."""
        self._heeded = min(self._signals, 1)
        for stage in sorted({child.stage for child in self._children}):
            running = [child for child in self._children if child.stage == stage and child.restart_at is None]
            self._stop_together(running)
        for child in self._children:
            child.process.kill_group()
        self._children.clear()

    def _stop_together(self, children: list[Child]) -> None:
        now = time.monotonic()
        patience_s = math.inf if self._started else HASTE_S  # nobody has been served yet: nothing to drain
        deadlines = {child.spec.name: now + min(child.spec.stop_timeout_s, patience_s) for child in children}
        for child in children:
            child.process.signal(child.spec.stop_signal)
        while running := [child for child in children if child.process.exit_code is None]:
            now = time.monotonic()
            if self._signals > self._heeded:
                self._heeded = self._signals
                for child in running:
                    child.process.signal(child.spec.hasten_signal or child.spec.stop_signal)
                    deadlines[child.spec.name] = min(deadlines[child.spec.name], now + HASTE_S)
            for child in running:
                if now >= deadlines[child.spec.name]:
                    self._say(f"{child.spec.name} did not stop in time and was killed")
                    child.process.kill()
                    children.remove(child)
            self._sleep(max(0.0, min(TICK_S, *(deadlines[child.spec.name] - now for child in running))))

    def _sleep(self, timeout_s: float) -> None:
        """Sleeps until a signal comes (a child's end is one), for `timeout_s` at most."""
        if select.select([self._wake], [], [], timeout_s)[0]:
            with contextlib.suppress(BlockingIOError):
                while self._wake.recv(4096):
                    pass
