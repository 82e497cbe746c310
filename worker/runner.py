"""The runner: what a worker does with one message. It claims, supervises, records, settles. No agent code runs here."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import structlog

from shared import records, runs
from shared.database import for_sandbox
from shared.errors import SignatureError, UnavailableError
from shared.events import Attempt, Event, StoredEvent
from shared.messages import RunMessage
from shared.models import Run
from shared.outcomes import Cancelled, Failed, Lost, Outcome, TimedOut
from shared.services import Services
from shared.signing import TOKEN_PURPOSE, database_token, derive_key
from shared.states import ExecutionState
from worker import metrics
from worker.calls import Calls
from worker.claims import Claims
from worker.live import LiveRun
from worker.records import PostgresRecords, UserStore
from worker.supervise import NO_SANDBOX_PAUSE_S, Supervisor
from worker.tracker import AgentExecutionTracker
from worker.writer import EventWriter
from worker.zygote_client import ZygoteClient

log = structlog.get_logger(__name__)

RECORD_FOR_S = 600.0
RECORD_RETRY_S = 0.5
HANDED_BACK = Lost("drained", "the worker was shut down", counted=False)
TOKEN_MARGIN_S = 60.0


class Runner:
    """The way of one run through this worker.

    Args:
        worker_id: who claims.
        live: runs under way here, by id; heartbeat and control channel look them up in it.
        claims: takes runs and lets go of them.
        is_closing: whether the worker ends now, so that waiting for Postgres is over.
        must_hand_back: whether the time of the drain is over, so that nothing is begun any more.
        after_forced_end: called when a sandbox was killed or died.
    """

    def __init__(  # noqa: PLR0913 - the parts of a worker
        self,
        services: Services,
        *,
        worker_id: str,
        zygote: ZygoteClient,
        writer: EventWriter,
        live: dict[str, LiveRun],
        tracker: AgentExecutionTracker,
        claims: Claims,
        is_closing: Callable[[], bool],
        must_hand_back: Callable[[], bool] = lambda: False,
        after_forced_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._services = services
        self._worker_id = worker_id
        self._zygote = zygote
        self._writer = writer
        self._live = live
        self._tracker = tracker
        self._claims = claims
        self._is_closing = is_closing
        self._must_hand_back = must_hand_back
        self._after_forced_end = after_forced_end
        self._token_key = derive_key(services.settings.secrets[0], TOKEN_PURPOSE)

    def execute(self, text: object) -> None:
        """Does what a message asks for, if it still is to be done. Never raises for what a message or a run can do."""
        try:
            message = RunMessage.decode(text, self._services.signer)
        except SignatureError as error:
            metrics.REFUSED_MESSAGES.inc()
            log.warning("a message is refused", reason=error.message)
            return
        context = message.context
        with structlog.contextvars.bound_contextvars(
            run_id=context.run_id, correlation_id=context.correlation_id, user_id=context.user_id
        ):
            claimed = self._claims.take(message)
            if claimed is None:
                return
            run = claimed.run
            self._tracker.start(self._key(run), run.id, run.correlation_id, agent=run.agent)
            self._tracker.transition(self._key(run), ExecutionState.RUNNING, attempt=run.attempt)
            live = LiveRun(run, claimed.granted)
            self._live[run.id] = live
            if self._must_hand_back():  # it was claimed while the others were stopped
                live.stop(HANDED_BACK)
            stored: list[StoredEvent] | None = None
            try:
                stored = self._supervise_and_record(live)
            finally:
                if self._live.get(run.id) is live:  # not the next attempt, which may be here already
                    del self._live[run.id]
                live.close()
            self._claims.settle(run, stored)

    def _supervise_and_record(self, live: LiveRun) -> list[StoredEvent] | None:
        """Returns the events of the attempt's end, None if it is not known to be written. The sandbox is gone then."""
        run = live.run
        if run.cancel_requested_at is not None:
            return self._record(live, Cancelled())
        if live.remaining_s <= 0:
            return self._record(live, TimedOut(run.time_limit_s))
        try:
            sandbox = self._zygote.fork(live.wake)
        except UnavailableError as error:
            time.sleep(NO_SANDBOX_PAUSE_S)  # this attempt does not count: without a pause it would be tried for ever
            return self._record(live, Lost("no_sandbox", error.message, counted=False))
        supervisor = Supervisor(
            live,
            sandbox,
            kill=lambda signum: self._zygote.kill(sandbox, signum),
            put_event=self._writer.put,
            answer_call=Calls(UserStore(self._services, run), PostgresRecords(self._services, run)).answer,
            grace_s=self._services.settings.cancel_grace_s,
            after_forced_end=self._after_forced_end,
        )
        try:
            # A sandbox has ended by itself when it has given its result; if it has not, it may hold a lock of its run.
            return self._record(live, self._watch(supervisor, live), on_refusal=supervisor.close)
        finally:
            supervisor.close()
            metrics.SANDBOX_CPU_SECONDS.inc(sandbox.cpu_s)

    def _watch(self, supervisor: Supervisor, live: LiveRun) -> Outcome:
        try:
            return supervisor.run(self._start_frame(live))
        except UnavailableError as error:  # the steps of earlier attempts cannot be read now
            return Lost("store_outage", error.message, counted=False)
        except Exception:  # a mistake of ours must end the run with a reason, not leave it to be tried for ever
            log.exception("the supervision of a run failed")
            return Failed("internal", "the worker failed at this run; its operator finds the reason in the log")

    def _start_frame(self, live: LiveRun) -> dict[str, Any]:
        run, settings = live.run, self._services.settings
        ttl_s = live.remaining_s + settings.cancel_grace_s + TOKEN_MARGIN_S
        url = settings.run_database_url
        database_url, ports = for_sandbox(url.get_secret_value()) if url else (None, [])
        return {
            "t": "start",
            "context": run.context,
            "agent": run.agent,
            "input": run.input,
            "granted": live.granted,
            "steps": self._recorded_steps(run),
            "is_last": run.lost_attempts + 1 >= run.max_attempts,
            "time_left_s": live.remaining_s,
            "database_url": database_url,
            "database_ports": ports,
            "database_token": database_token(self._token_key, run.user_id, run.id, run.attempt, ttl_s),
        }

    def _recorded_steps(self, run: Run) -> list[str]:
        if run.attempt == 1 and run.retry_of is None:
            return []
        with self._services.database.user_session(run.user_id) as session:
            return records.step_names(session, run)

    def _record(
        self, live: LiveRun, outcome: Outcome, on_refusal: Callable[[], None] = lambda: None
    ) -> list[StoredEvent] | None:
        """Writes the end, in one transaction with the events that were still waiting; tries until Postgres takes it.

        Args:
            on_refusal: called before each further try.

        Returns:
            the events that were stored with it; None if this attempt is not known to have written it.
        """
        run = live.run
        stored: list[StoredEvent] | None = None
        give_up = time.monotonic() + RECORD_FOR_S
        pending = self._writer.take(
            Attempt(run.id, run.attempt),
            give_up=lambda: live.superseded or self._is_closing() or time.monotonic() > give_up,
        )
        while not live.superseded:
            try:
                stored = self._finish(run, outcome, pending)
            except UnavailableError:
                if time.monotonic() > give_up or self._is_closing():
                    log.warning("the end of a run is left to its recovery: the database is away")
                    break
                on_refusal()
                time.sleep(RECORD_RETRY_S)
                continue
            if stored:
                self._services.publish(stored)
            break
        state = ExecutionState.QUEUED if isinstance(outcome, Lost) else outcome.state
        self._tracker.transition(self._key(run), state, outcome=type(outcome).__name__)
        metrics.ENDED.labels(run.queue, type(outcome).__name__.lower()).inc()
        log.info("an attempt ended", agent=run.agent, attempt=run.attempt, outcome=type(outcome).__name__.lower())
        return stored

    def _finish(self, run: Run, outcome: Outcome, pending: Sequence[Event]) -> list[StoredEvent] | None:
        database, actor = self._services.database, f"worker:{self._worker_id}"
        if not isinstance(outcome, Lost):
            return runs.end(database.once(run.user_id), run, outcome, actor, pending)
        with database.user_session(run.user_id) as session:
            return runs.finish(session, run, outcome, actor, pending)

    @staticmethod
    def _key(run: Run) -> str:
        return f"{run.id}:{run.attempt}"
