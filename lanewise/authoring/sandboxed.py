"""An agent in a real sandbox, without a fleet: the zygote, the limits and the supervision are a worker's."""

from __future__ import annotations

import logging
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import FrameType
from typing import Any

import structlog

from lanewise.authoring.local_run import Json, LocalRun, Order
from lanewise.authoring.memory import Memory
from shared.errors import ConfigurationError
from shared.outcomes import Lost
from worker.walls import Confinement
from worker.zygote_client import ZygoteClient

AGENTS = "LANEWISE_AGENTS"
MAX_WAITING = 1000  # events that nobody has looked at yet; then the agent has to wait
KILLED = Lost("killed", "it was ended by Ctrl-C")


class SandboxedRun:
    """A run under way in a sandbox of its own.

    Args:
        order: what to run.
        zygote: has the agent.
    """

    def __init__(self, order: Order, zygote: ZygoteClient) -> None:
        self._waiting: queue.Queue[Json | None] = queue.Queue(MAX_WAITING)
        self._zygote = zygote
        self.run = LocalRun(order, Memory(), self._put)
        self._thread = threading.Thread(target=self._supervise, name="lanewise-run", daemon=True)
        self._error: BaseException | None = None

    def events(self) -> Iterator[Json]:
        """Starts it and yields its events in their public form, as they come, up to the last one.

        Raises:
            LanewiseError: no sandbox could be had.
        """
        self._thread.start()
        while (event := self._waiting.get()) is not None:
            yield event
        self._thread.join()
        if self._error is not None:
            raise self._error

    def interrupt(self) -> None:
        """Asks it to end; the second time, ends it."""
        if self.run.live.asked_to_end is None:
            self.run.live.cancel()
        else:
            self.run.live.stop(KILLED)

    def _supervise(self) -> None:
        try:
            sandbox = self._zygote.fork(self.run.live.wake)
            self.run.supervise(sandbox, lambda signum: self._zygote.kill(sandbox, signum))
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that reads the events
            self._error = error
        finally:
            self.run.live.close()
            self._waiting.put(None)

    def _put(self, event: Json, timeout_s: float) -> bool:
        try:
            self._waiting.put(event, timeout=timeout_s)
        except queue.Full:
            return False
        return True


def quieten() -> None:
    """Keeps what supervision logs for operators off the author's terminal, but for what is wrong with itself."""
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


@contextmanager
def zygote_with(target: str, memory_mb: int, passed: Sequence[str]) -> Iterator[tuple[ZygoteClient, Json]]:
    """Yields a zygote that has imported an agent, beside the installed ones and those of `LANEWISE_AGENTS`.

    Args:
        target: `package.module:Class`; without the class, the only agent of the module.
        memory_mb: what a sandbox may use beyond the zygote.
        passed: names of environment variables for the sandbox.

    Yields:
        the zygote, and what it publishes of the agent.

    Raises:
        ConfigurationError: an agent is not sound, with file, line and cure; or the module has several.
    """
    before = os.environ.get(AGENTS)
    others = [name for name in (before or "").split(",") if name not in ("", target)]
    os.environ[AGENTS] = ",".join((target, *others))
    zygote = ZygoteClient(Confinement(memory_mb), passed)
    try:
        zygote.start()
        yield zygote, _entry(zygote, target)
    finally:
        zygote.stop()
        if before is None:
            del os.environ[AGENTS]
        else:
            os.environ[AGENTS] = before


@contextmanager
def interruptible(run: SandboxedRun, tell: Callable[[str], None]) -> Iterator[None]:
    """Within the block Ctrl-C asks the run to end, and a second one ends it; `tell` is told what is going on."""

    def handle(signum: int, frame: FrameType | None) -> None:
        del signum, frame
        run.interrupt()
        tell("asked to stop; Ctrl-C again ends it at once")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def order_for(entry: Json, run_input: Any, time_limit_s: float | None, granted: Sequence[str]) -> Order:
    """Returns the order for an agent as its zygote publishes it."""
    order = Order(entry["name"], run_input, entry["time_limit_s"], granted=granted)
    return order if time_limit_s is None else replace(order, time_limit_s=time_limit_s)


def _entry(zygote: ZygoteClient, target: str) -> Json:
    named = zygote.named[target]
    if len(named) > 1:
        choice = " or ".join(f"{target}:{cls}" for cls in named.values())
        raise ConfigurationError(f"{target} has {len(named)} agents: name one, {choice}")
    return next(entry for entry in zygote.agents if entry["name"] in named)
