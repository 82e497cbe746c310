"""The one Redis connection of a process that listens to channels.

redis-py's `PubSub` connects again by itself and says nothing, and what was published meanwhile is gone. Here a lost
connection is an event of its own: whoever listens is told that there may be a gap.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import cast

import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from shared.redis import SOCKET_TIMEOUT_S, RedisError

PING_S = 5.0
SILENCE_S = 15.0
RECONNECT_S = 0.5
CHUNK = 1000
MAX_TOGETHER = 256  # messages
MAX_TOGETHER_BYTES = 1024 * 1024  # and a message

log = structlog.get_logger(__name__)


class Subscription:
    """Listens in a thread of its own.

    Args:
        url: of Redis.
        on_messages: called with what has come: texts by channel.
        on_confirmed: called with a channel that Redis has subscribed.
        on_gap: called after the connection was lost, and again when there is a new one.
    """

    def __init__(
        self,
        url: str,
        *,
        on_messages: Callable[[dict[str, list[str]]], None],
        on_confirmed: Callable[[str], None],
        on_gap: Callable[[], None],
    ) -> None:
        self._url = url
        self._on_messages = on_messages
        self._on_confirmed = on_confirmed
        self._on_gap = on_gap
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._connection: redis.Connection | None = None
        self._broken = False
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._connection is not None

    def start(self) -> None:
        """Starts the thread."""
        self._thread = threading.Thread(target=self._run, name="lanewise-subscription", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        with self._lock:
            self._send("PING")  # the answer wakes the reader
        if self._thread is not None:
            self._thread.join(2 * SOCKET_TIMEOUT_S)

    def add(self, name: str) -> None:
        """Subscribes a channel, now or with the next connection."""
        with self._lock:
            self._names.add(name)
            self._send("SUBSCRIBE", name)

    def remove(self, *names: str) -> None:
        """Unsubscribes channels; at least one, for Redis takes none for all."""
        with self._lock:
            self._names.difference_update(names)
            self._send("UNSUBSCRIBE", *names)

    def _send(self, *command: str) -> None:
        if self._connection is None:
            return
        try:
            self._connection.send_command(*command, check_health=False)  # type: ignore[no-untyped-call]
        except RedisError:
            self._broken = True  # the reader begins again, with all names

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._listen()
            except (RedisError, OSError) as error:
                if not self._stopping.is_set():
                    log.warning("the event subscription was lost", error=str(error))
            except Exception:
                log.exception("the event subscription failed")
            self._on_gap()
            self._stopping.wait(RECONNECT_S)

    def _listen(self) -> None:
        connection = _new_connection(self._url)
        try:
            connection.connect()  # type: ignore[no-untyped-call]
            with self._lock:
                self._connection, self._broken = connection, False
                names = sorted(self._names)
                for start in range(0, len(names), CHUNK):
                    self._send("SUBSCRIBE", *names[start : start + CHUNK])
            self._on_gap()
            self._read(connection)
        finally:
            with self._lock:
                self._connection = None
            connection.disconnect()  # type: ignore[no-untyped-call]

    def _read(self, connection: redis.Connection) -> None:
        heard = pinged = time.monotonic()
        while not self._stopping.is_set():
            now = time.monotonic()
            if self._broken or now - heard > SILENCE_S:
                raise redis.ConnectionError("no answer to a ping" if not self._broken else "a write failed")
            if now - pinged > PING_S:
                pinged = now
                with self._lock:
                    self._send("PING")
            if connection.can_read(timeout=1):
                heard = now
                self._read_some(connection)

    def _read_some(self, connection: redis.Connection) -> None:
        """Hands on together what is there already: the more comes, the fewer writes it takes."""
        messages: dict[str, list[str]] = {}
        size = 0
        for _ in range(MAX_TOGETHER):
            size += self._handle(connection.read_response(), messages)
            if size >= MAX_TOGETHER_BYTES or not connection.can_read(timeout=0):
                break
        if messages:
            self._on_messages(messages)

    def _handle(self, reply: object, messages: dict[str, list[str]]) -> int:
        """Takes what Redis says; returns the size of the message, if it is one."""
        if not isinstance(reply, list):
            return 0
        match reply:
            case ["message", str(name), str(text)]:
                messages.setdefault(name, []).append(text)
                return len(text)
            case ["subscribe", str(name), _]:
                self._on_confirmed(name)
            case _:
                pass
        return 0


def _new_connection(url: str) -> redis.Connection:
    pool = redis.ConnectionPool.from_url(
        url,
        protocol=2,
        decode_responses=True,
        socket_timeout=SOCKET_TIMEOUT_S,
        socket_connect_timeout=SOCKET_TIMEOUT_S,
        socket_keepalive=True,
        retry=Retry(NoBackoff(), 0),
    )
    return cast("redis.Connection", pool.make_connection())
