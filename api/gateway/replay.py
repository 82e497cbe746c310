"""What a client that comes (back) is told first: the events after its cursor, or a snapshot and why not."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Self

from sqlalchemy.orm import Session

from api.gateway.channel import Channel, Listener
from api.gateway.gate import PATIENCE_S, Gate
from api.gateway.protocol import encode
from api.gateway.ring import MAX_FRAMES
from api.metrics import Metrics
from api.reading import RunReader
from shared.database import Database
from shared.events import head as stream_head
from shared.events import read_stream, trimmed_to

PAGE = 500


@dataclass(frozen=True)
class Opening:
    """How a stream begins.

    Args:
        position: the `seq` after which events follow.
        welcome: what the welcome frame says about it.
    """

    position: int
    welcome: dict[str, Any]

    @classmethod
    def recovered(cls, after: int, head: int) -> Self:
        """Returns the one of a client that goes on after `after`."""
        return cls(after, {"head": head, "recovered": True, "reason": None, "replay": head - after, "snapshot": None})


class Replay:
    """Reads one user's log for one connection, which waits for its welcome from now on.

    Args:
        database: where the log is.
        user_id: whose.
        runs: for the snapshot.
        gate: how many read at once.
        metrics: counts where replays come from.
    """

    def __init__(self, database: Database, user_id: str, runs: RunReader, gate: Gate, metrics: Metrics) -> None:
        self._database = database
        self._user_id = user_id
        self._runs = runs
        self._gate = gate
        self._metrics = metrics
        self._give_up_at = time.monotonic() + PATIENCE_S

    def recall(self, channel: Channel, listener: Listener, after: int) -> list[bytes] | None:
        """Adds the listener to the channel and returns the frames after `after`, if they are, or come, to hand.

        Those who come back together find them in memory: the first one has them read. None if they are too many, or the
        client cannot go on there: then nothing was done.

        Raises:
            UnavailableError: Postgres is away, or the wait took too long.
        """
        frames = channel.resume(listener, after)
        if frames is None and 0 < channel.missing(after) <= MAX_FRAMES:
            with channel.recalling.enter(self._left_s()):
                frames = channel.resume(listener, after)  # another one may have had them read
                if frames is None:
                    return self._read_into(channel, listener, after)
        if frames is not None:
            self._metrics.replays.labels("memory").inc()
        return frames

    def open(self, after: int | None) -> Opening:
        """Decides whether the client can go on after `after`; else it gets a snapshot as of the head.

        Raises:
            UnavailableError: Postgres is away.
        """
        self._metrics.replays.labels("log").inc()
        with self._gate.enter(self._left_s()), self._database.user_session(self._user_id, repeatable=True) as session:
            head = stream_head(session, self._user_id)  # all that is read here is as of this head, without any lock
            reason = None if after is None else self._obstacle(session, after, head)
            if after is not None and reason is None:
                return Opening.recovered(after, head)
            runs, more = self._runs.snapshot(session, self._user_id)
            snapshot = {"runs": runs, "more": more}
            welcome = {"head": head, "recovered": after is None, "reason": reason, "replay": 0, "snapshot": snapshot}
            return Opening(head, welcome)

    def read(self, after: int) -> list[dict[str, Any]]:
        """Returns the next page of events."""
        with self._gate.enter(), self._database.user_session(self._user_id) as session:
            views = read_stream(session, self._user_id, after, PAGE)
        self._metrics.events_replayed.inc(len(views))
        return views

    def _read_into(self, channel: Channel, listener: Listener, after: int) -> list[bytes] | None:
        """Reads what precedes the frames at hand, and leaves it with them if there is room."""
        with self._gate.enter(self._left_s()), self._database.user_session(self._user_id, repeatable=True) as session:
            if self._obstacle(session, after, stream_head(session, self._user_id)) is not None:
                return None
            views = read_stream(session, self._user_id, after, channel.missing(after))
        end = after + len(views)
        if not views or views[-1]["seq"] != end:
            return None
        self._metrics.events_replayed.inc(len(views))
        older = [encode(view) for view in views]
        channel.remember(older, end)
        newer = channel.resume(listener, end)
        if newer is None:
            return None
        self._metrics.replays.labels("log").inc()
        return older + newer

    def _obstacle(self, session: Session, after: int, head: int) -> str | None:
        if after > head:
            return "ahead"
        return "trimmed" if after < trimmed_to(session, self._user_id) else None

    def _left_s(self) -> float:
        return self._give_up_at - time.monotonic()
