"""Supervision of one sandbox: passes its events on, answers its calls, ends it when it has to end."""

from __future__ import annotations

import os
import re
import select
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import structlog

from shared.audit import Deed
from shared.errors import FrameError, LanewiseError
from shared.event_types import MAX_DATA_BYTES, SANDBOX_TYPES, Denial, EventType
from shared.events import Event
from shared.frames import FrameReader, FrameWriter
from shared.jsonvalue import check_json, clean_json
from shared.outcomes import MAX_AFTER_S, Completed, Failed, Lost, Outcome, is_pause
from worker.live import LiveRun
from worker.zygote_client import SandboxProcess

log = structlog.get_logger(__name__)

KILL_AFTER_TERM_S = 0.5
EXIT_WAIT_S = 2.0
NO_SANDBOX_PAUSE_S = 1.0
FREE_ZYGOTE_DEATHS = 2  # of one run that do not count as its attempts
EXIT_AFTER_RESULT_S = 0.2
READS_NOTHING_S = 5.0
READ_BYTES = 65_536
MAX_OUTPUT_BYTES = 1024 * 1024
MAX_NAME = 64
MAX_MESSAGE = 2000
MAX_TRACE = 8000
MAX_EVENTS = 100_000  # of an attempt, besides tokens, which are joined
MAX_READ_BYTES = 512 * 1024 * 1024  # of an attempt, whatever it says with them
MAX_DENIALS = 100  # of an attempt that the audit trail tells one by one; the log has all
_TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")

Calls = Callable[[str, dict[str, Any]], Any]


class Supervisor:
    """Sees one sandbox through. Everything that comes from it is untrusted input.

    Args:
        live: the run and its orders.
        sandbox: forked for it.
        kill: sends a signal to the sandbox's process group.
        put_event: queues an event; False means that the log is behind and the sandbox has to wait.
        answer_call: does what the sandbox asks for, or raises.
        grace_s: seconds between asking an agent to end and SIGTERM.
        after_forced_end: called when the sandbox was killed or died: it may have left something behind elsewhere.
    """

    def __init__(  # noqa: PLR0913 - what a supervisor reaches, all named at the one call
        self,
        live: LiveRun,
        sandbox: SandboxProcess,
        *,
        kill: Callable[[int], None],
        put_event: Callable[[Event, float], bool],
        answer_call: Calls,
        grace_s: float,
        after_forced_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._live = live
        self._sandbox = sandbox
        self._kill = kill
        self._put_event = put_event
        self._answer_call = answer_call
        self._grace_s = grace_s
        self._after_forced_end = after_forced_end
        self._asked_at: float | None = None
        self._terminated = False
        self._events = self._tokens = self._read_bytes = 0
        self._denials = 0
        self.trace = ""  # where the agent raised, if it did
        self._reader = FrameReader()
        self._writer = FrameWriter(sandbox.sock)
        self._frames: Iterator[dict[str, Any]] = iter(())  # read and not handled yet
        self._poll = select.poll()
        self._poll.register(live.wake_fd, select.POLLIN)

    def run(self, start: dict[str, Any]) -> Outcome:
        """Sends the start frame and returns how the attempt ended; `close` follows when that is recorded."""
        try:
            self._writer.put(start)
            outcome = self._watch()
        except LanewiseError as error:
            outcome = Failed("sandbox_protocol", f"the sandbox broke the protocol: {error.message}")
            self._stop()
        except OSError:
            outcome = self._death()
        if self._live.must_stop is not None:
            self._stop()  # first: nothing may go on beside the successor that the record allows
            return self._live.must_stop
        return self._verdict(outcome)

    def close(self) -> None:
        """Makes sure that the sandbox is gone: an honest one has exited by itself after its result."""
        self._sandbox.sock.close()
        if not self._sandbox.exited.wait(EXIT_AFTER_RESULT_S):
            self._stop()

    def _stop(self) -> None:
        self._sandbox.sock.close()
        self._kill(signal.SIGKILL)
        if not self._sandbox.exited.wait(EXIT_WAIT_S):
            self._kill(signal.SIGKILL)
            self._sandbox.exited.wait(EXIT_WAIT_S)
        self._after_forced_end()

    def _watch(self) -> Outcome:
        while True:
            gone = self._sandbox.exited.is_set()  # asked first: what it wrote before it went is there to be read then
            ready = self._await(0 if gone else self._next_timer_s())
            if self._live.wake_fd in ready:
                os.eventfd_read(self._live.wake_fd)
            if (order := self._follow_orders()) is not None:
                return order
            if self._sandbox.sock.fileno() in ready:
                if self._writer.waiting:
                    self._writer.flush()
                elif not self._read():
                    return self._death()
                if (outcome := self._handle_frames()) is not None:
                    return outcome
            elif gone:
                return self._death()
            elif self._writer.stuck_s > READS_NOTHING_S:
                raise FrameError("it does not read what it is sent")

    def _await(self, timeout_s: float) -> set[int]:
        """Waits for an order, and for the sandbox; of which nothing more is read before it takes what it is sent."""
        self._poll.register(self._sandbox.sock, select.POLLOUT if self._writer.waiting else select.POLLIN)
        return {fd for fd, _ in self._poll.poll(timeout_s * 1000)}

    def _read(self) -> bool:
        """Reads what has come and returns whether there was anything: else it has closed its end."""
        data = self._sandbox.sock.recv(READ_BYTES)
        self._read_bytes += len(data)
        if self._read_bytes > MAX_READ_BYTES:
            raise FrameError(f"it sent more than {MAX_READ_BYTES:,} bytes in one attempt")
        self._frames = self._reader.feed(data)
        return bool(data)

    def _handle_frames(self) -> Outcome | None:
        """Handles what was read, until an answer has to wait for the sandbox to read."""
        while not self._writer.waiting and (frame := next(self._frames, None)) is not None:
            outcome = self._handle(frame)
            if outcome is None:
                outcome = self._follow_orders()
            if outcome is not None:
                return outcome
        return None

    def _follow_orders(self) -> Outcome | None:
        """Returns what the attempt has to end with at once; else does what cancel and time limits ask for."""
        if self._live.must_stop is None:
            self._apply_timers()
        return self._live.must_stop

    def _handle(self, frame: dict[str, Any]) -> Outcome | None:
        match frame.get("t"):
            case "event":
                return self._pass_on(self._event(frame))
            case "call":
                self._answer(frame)
                return None
            case "result":
                return Completed(_checked(frame.get("output"), "output", MAX_OUTPUT_BYTES))
            case "cancelled":
                return self._live.asked_to_end or Failed("cancelled", "the agent cancelled itself")
            case "error":
                self._log_trace(frame)
                return Failed(_text(frame, "type", MAX_NAME), _text(frame, "message", MAX_MESSAGE))
            case "retry":
                self._log_trace(frame)
                return Lost("retry", _text(frame, "message", MAX_MESSAGE), after_s=_pause(frame.get("after_s")))
            case other:
                raise FrameError(f"unknown frame {str(other)[:MAX_NAME]!r}")

    def _event(self, frame: dict[str, Any]) -> Event:
        kind, agent, data = frame.get("type"), frame.get("agent"), frame.get("data")
        if (
            not isinstance(kind, str)
            or kind not in SANDBOX_TYPES
            or not isinstance(agent, str)
            or len(agent) > MAX_NAME
        ):
            raise FrameError("an event of a type or agent that a sandbox may not send")
        if not isinstance(data, dict):
            raise FrameError("an event whose data is not an object")
        data = _checked(data, "event data", MAX_DATA_BYTES)
        if kind == EventType.AGENT_PROGRESS:
            _check_progress(data)
        run = self._live.run
        self._events += 1
        self._tokens += kind == EventType.AGENT_TOKEN
        deed = self._denial(data) if kind == EventType.TOOL_DENIED else None
        return Event(run.user_id, run.id, run.attempt, EventType(kind), clean_json(agent), data, self._events, deed)

    def _denial(self, data: dict[str, Any]) -> Deed | None:
        """Returns what the audit trail is told: which of the reasons, and of the tool's name nothing but a name."""
        run, tool, reason = self._live.run, data.get("tool"), data.get("reason")
        if not isinstance(tool, str) or not isinstance(reason, str) or reason not in set(Denial):
            raise FrameError("a denial without a tool or with a reason that is none")
        self._denials += 1
        if self._denials > MAX_DENIALS:
            return None
        detail = {"tool": tool if _TOOL_NAME.fullmatch(tool) else "?", "attempt": run.attempt}
        return Deed(run.user_id, f"user:{run.user_id}", "tool.deny", run.id, reason, run.correlation_id, detail)

    def _pass_on(self, event: Event) -> Outcome | None:
        if self._events - self._tokens > MAX_EVENTS:
            return Failed("quota_exceeded", f"it emitted more than {MAX_EVENTS:,} events, besides tokens")
        # While the log is behind nothing more is read from the sandbox: its next write blocks. Orders still count.
        while not self._put_event(event, 0.2):
            if self._live.must_stop is not None:
                return self._live.must_stop
            self._apply_timers()
            if self._live.asked_to_end is not None and self._sandbox.exited.is_set():
                return self._death()
        return None

    def _answer(self, frame: dict[str, Any]) -> None:
        number, method, parameters = frame.get("id"), frame.get("method"), frame.get("params")
        if type(number) is not int or not isinstance(method, str) or not isinstance(parameters, dict):
            raise FrameError("a call without id, method or params")
        if self._sandbox.exited.is_set():
            return  # nobody waits for the answer
        try:
            reply = {"t": "reply", "id": number, "value": self._answer_call(method, parameters)}
        except LanewiseError as error:
            reply = {"t": "reply", "id": number, "error": error.message, "code": error.code}
        self._writer.put(reply)

    def _next_timer_s(self) -> float:
        now = time.monotonic()
        most = READS_NOTHING_S / 10 if self._writer.waiting else 60
        if self._asked_at is None:
            return min(max(self._live.deadline - now, 0), most)
        wait = self._grace_s + (KILL_AFTER_TERM_S if self._terminated else 0)
        return min(max(self._asked_at + wait - now, 0.01), most)

    def _apply_timers(self) -> None:
        now = time.monotonic()
        if self._live.asked_to_end is None and now >= self._live.deadline:
            self._live.time_out()
        if self._live.asked_to_end is None:
            return
        if self._asked_at is None:
            self._asked_at = now
            self._writer.put({"t": "cancel"})
        elif now >= self._asked_at + self._grace_s + KILL_AFTER_TERM_S:
            self._kill(signal.SIGKILL)
        elif now >= self._asked_at + self._grace_s and not self._terminated:
            self._terminated = True
            self._kill(signal.SIGTERM)

    def _death(self) -> Outcome:
        """Says why a sandbox ended without a result."""
        self._sandbox.exited.wait(EXIT_WAIT_S)
        self._after_forced_end()
        if self._live.asked_to_end is not None:
            return self._live.asked_to_end
        if self._sandbox.refused:
            return Lost("no_sandbox", f"the sandbox {self._sandbox.reason}", counted=False, after_s=NO_SANDBOX_PAUSE_S)
        if self._sandbox.zygote_died:
            # It is hardly ever a run's own doing. Of one that meets it again and again it may be, and that has to end.
            before = sum(lost["reason"] == "zygote_died" for lost in self._live.run.lost)
            return Lost("zygote_died", f"the sandbox {self._sandbox.reason}", counted=before >= FREE_ZYGOTE_DEATHS)
        reason = self._sandbox.reason or "closed its connection"
        return Lost("sandbox_died", f"the sandbox {reason} before it gave a result")

    def _verdict(self, outcome: Outcome) -> Outcome:
        """What was asked for wins over a failure that came of it; a result that was faster stays a result."""
        if isinstance(outcome, Failed | Lost) and self._live.asked_to_end is not None:
            return self._live.asked_to_end
        return outcome

    def _log_trace(self, frame: dict[str, Any]) -> None:
        if frame.get("trace"):
            self.trace = str(frame["trace"])[:MAX_TRACE]
            log.info("an agent raised", agent=self._live.run.agent, trace=self.trace)


def _checked(value: Any, field: str, max_bytes: int) -> Any:
    try:
        return check_json(clean_json(value), field, max_bytes)
    except RecursionError:
        raise FrameError(f"{field} is nested too deeply") from None


def _check_progress(data: dict[str, Any]) -> None:
    fraction = data.get("fraction")
    if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
        raise FrameError("progress without a fraction from 0 to 1")
    whole = data.get("run_fraction", fraction)
    if isinstance(whole, bool) or not isinstance(whole, int | float) or not 0 <= whole <= 1:
        raise FrameError("progress whose run_fraction is not a number from 0 to 1")
    if not isinstance(data.get("note", ""), str):
        raise FrameError("progress with a note that is not text")


def _text(frame: dict[str, Any], key: str, limit: int) -> str:
    value = frame.get(key)
    if not isinstance(value, str):
        raise FrameError(f"a frame whose {key} is not text")
    return str(clean_json(value[:limit]))


def _pause(after_s: Any) -> float | None:
    if after_s is not None and not is_pause(after_s):
        raise FrameError(f"a retry whose after_s is not a number of seconds from 0 to {MAX_AFTER_S:,.0f}")
    return None if after_s is None else float(after_s)
