"""The streams that this process follows: a channel for each user who is listened for.

Redis is a shortcut: what comes over it is delivered only if it follows the last number delivered. Anything else (a gap,
a lost connection, a head in Postgres that is higher than ours) is repaired by reading the log, which has everything.
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, ClassVar

import structlog
from sqlalchemy import ARRAY, Text, any_, bindparam, select

from api.gateway.channel import Channel
from api.gateway.gate import Gate
from api.gateway.ring import MAX_BYTES, MAX_BYTES_IN_ALL
from api.gateway.subscription import Subscription
from api.metrics import Metrics
from shared.errors import LanewiseError
from shared.events import head, read_stream
from shared.loop import Loop
from shared.models import UserStream
from shared.redis import SOCKET_TIMEOUT_S
from shared.services import Services

SWEEP_S = 2.0
SWEEP_AWAY_S = 0.5  # without Redis the sweep is the way, not the safety net
LINGER_S = 10.0  # a channel nobody holds: whoever waits or connects again finds it in place
PAGE = 500
TOGETHER = 16  # events, of at most 64 KiB
REPAIRERS = 4
GRACE_S = 0.05  # for events that were overtaken: most gaps close by themselves

log = structlog.get_logger(__name__)
_USERS = bindparam("users", type_=ARRAY(Text))
_HEADS = select(UserStream.user_id, UserStream.head).where(UserStream.user_id == any_(_USERS))


class Hub:
    """Follows the event streams of the users that somebody listens for.

    Args:
        services: Redis for the shortcut, Postgres for the log.
        metrics: counts repairs and lost connections.
    """

    def __init__(self, services: Services, metrics: Metrics) -> None:
        self._services = services
        self._metrics = metrics
        self.gate = Gate()
        self._lock = threading.Lock()
        self._channels: dict[str, Channel] = {}  # by name in Redis
        self._subscription = Subscription(
            services.settings.redis_url.get_secret_value(),
            on_messages=self._receive,
            on_confirmed=self._confirm,
            on_gap=self._gap,
        )
        self._sweep = Sweep(self)
        self._repairs: queue.SimpleQueue[tuple[float, Channel] | None] = queue.SimpleQueue()
        self._started = False
        self._released = threading.Event()

    @property
    def redis_away(self) -> bool:
        """Whether Redis is known not to answer."""
        return self._started and not self.connected

    @property
    def connected(self) -> bool:
        """Whether the subscription connection stands."""
        return self._subscription.connected

    @property
    def released(self) -> bool:
        """Whether the process is about to end: nobody should go on waiting."""
        return self._released.is_set()

    @contextmanager
    def channel(self, user_id: str) -> Iterator[Channel]:
        """Holds the user's channel. It is placed: what is committed from now on will be offered to its listeners.

        Raises:
            UnavailableError: Postgres is away.
        """
        channel = self._hold(user_id)
        try:
            self._place(channel)
            yield channel
        finally:
            with self._lock:
                channel.holders -= 1
                channel.left_at = time.monotonic()

    def release(self) -> None:
        """Wakes everybody who waits: the process is about to end."""
        self._released.set()
        for channel in self._all():
            channel.lose()

    def stop(self) -> None:
        """Stops following."""
        with self._lock:
            started, self._started = self._started, True
        if started:
            self._sweep.stop()
            self._subscription.stop()
            for _ in range(REPAIRERS):
                self._repairs.put(None)

    def compare(self) -> None:
        """Repairs every channel whose stream is longer than what was delivered, and drops those not needed."""
        self._drop_idle()
        channels = self._all()
        for channel in channels:
            channel.trim(min(MAX_BYTES, MAX_BYTES_IN_ALL // len(channels)))
        delivered = {channel.user_id: (channel, last) for channel in channels if (last := channel.last) is not None}
        if not delivered:
            return
        with self._services.database.system_session() as session:
            heads = dict(session.execute(_HEADS, {"users": list(delivered)}).tuples().all())
        for user_id, (channel, last) in delivered.items():
            stream_head = heads.get(user_id, 0)
            channel.rewind(last, stream_head)
            if channel.is_behind(stream_head):
                self._repair(channel)

    def _hold(self, user_id: str) -> Channel:
        name = self._services.keys.events(user_id)
        with self._lock:
            self._start()
            channel = self._channels.get(name)
            if channel is None:
                channel = self._channels[name] = Channel(user_id, name)
                self._metrics.channels.set(len(self._channels))
                self._subscription.add(name)
            channel.holders += 1
            return channel

    def _place(self, channel: Channel) -> None:
        """Finds where a new channel begins: at the head, read after the subscription stands."""
        with channel.placing.enter():
            if channel.last is not None:
                return
            if self.connected:
                channel.subscribed.wait(SOCKET_TIMEOUT_S)
            with self.gate.enter(), self._services.database.user_session(channel.user_id) as session:
                position = head(session, channel.user_id)
            if not channel.place(position):
                self._repair(channel)

    def _drop_idle(self) -> None:
        with self._lock:
            idle = [name for name, channel in self._channels.items() if channel.idle_s() > LINGER_S]
            for name in idle:
                del self._channels[name]
            if idle:
                self._subscription.remove(*idle)
                self._metrics.channels.set(len(self._channels))

    def _all(self) -> list[Channel]:
        with self._lock:
            return list(self._channels.values())

    def _receive(self, messages: dict[str, list[str]]) -> None:
        for name, texts in messages.items():
            channel = self._channels.get(name)
            views = (view for text in texts for view in _parse(text))
            while channel is not None and (some := list(islice(views, TOGETHER))):
                if not channel.receive(some):
                    self._repair(channel)
                time.sleep(0)  # lets requests and writers in between

    def _confirm(self, name: str) -> None:
        channel = self._channels.get(name)
        if channel is not None:
            channel.subscribed.set()

    def _gap(self) -> None:
        self._metrics.subscription_changes.inc()
        self._sweep.wake()

    def _repair(self, channel: Channel) -> None:
        if channel.begin_repair():
            self._repairs.put((time.monotonic() + GRACE_S, channel))

    def _start(self) -> None:
        if not self._started:
            self._started = True
            self._subscription.start()
            self._sweep.start()
            for number in range(REPAIRERS):
                threading.Thread(target=self._repair_loop, name=f"lanewise-repair-{number}", daemon=True).start()

    def _repair_loop(self) -> None:
        while (item := self._repairs.get()) is not None:
            due, channel = item
            time.sleep(max(0.0, due - time.monotonic()))
            if channel.end_repair_if_whole():
                continue
            self._metrics.repairs.inc()
            try:
                self._read_on(channel)
            except LanewiseError as error:
                log.warning("a gap stays until the next sweep", error=error.message)
                channel.end_repair()
            except Exception:
                log.exception("a repair failed")
                channel.end_repair()

    def _read_on(self, channel: Channel) -> None:
        done = False
        while not done:
            wanted = channel.wanted
            with self._services.database.user_session(channel.user_id) as session:
                views = read_stream(session, channel.user_id, channel.last or 0, PAGE)
            self._metrics.events_repaired.inc(len(views))
            done = channel.fill(views, wanted)


class Sweep(Loop):
    """Compares heads every few seconds, because the last event before a silence can be the lost one."""

    name: ClassVar[str] = "sweep"

    def __init__(self, hub: Hub) -> None:
        super().__init__(0)
        self._hub = hub
        self._wake = threading.Event()

    def wake(self) -> None:
        """Ends the present pause."""
        self._wake.set()

    def stop(self, timeout_s: float = 5) -> None:
        """See `Loop.stop`."""
        self._stopping.set()
        self._wake.set()
        super().stop(timeout_s)

    def tick(self) -> None:
        """Pauses, then compares."""
        self._wake.wait(SWEEP_S if self._hub.connected else SWEEP_AWAY_S)
        self._wake.clear()
        try:
            self._hub.compare()
        except LanewiseError as error:
            log.warning("heads are not compared", error=error.message)
            self._stopping.wait(SWEEP_AWAY_S)


def _parse(text: str) -> list[dict[str, Any]]:
    """Returns the events of a message; none if it is not one of ours."""
    try:
        views = json.loads(text)
        if all(type(view["seq"]) is int and view["t"] == "event" for view in views):
            return list(views)
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    log.warning("a message on an event channel is not ours")
    return []
