"""Thousands of WebSockets in one process that reads them and counts: `python -m benchmarks.watchers`.

Commands and answers are lines of JSON. Each frame is counted, one in `each` is parsed: its number must be the one that
the count says, so that nothing can be missing or doubled between two that are parsed. A socket on which that is not so
is spoiled: it is read and counted no more.
"""

from __future__ import annotations

import gc
import json
import math
import select
import socket
import sys
import time
from collections.abc import Callable
from typing import Any

TEXT, CLOSE, PING = 0x81, 0x88, 0x89
PONG = bytes((0x8A, 0x80, 0, 0, 0, 0))  # masked with zeros, as all that a client sends must be masked
CONNECTING_AT_ONCE = 64
SILENCE_S = 5.0
RECEIVE_BYTES = 256 * 1024
WINDOW_BYTES = 128 * 1024  # as over a network; on the loopback interface the kernel would take in megabytes


class Watcher:
    """One WebSocket.

    Args:
        address: host and port.
        upgrade: the request.
        hello: what is said after the upgrade, until `live` comes; None: nothing, and nothing is waited for.
        user: whose stream it is, a number.
    """

    def __init__(self, address: tuple[str, int], upgrade: bytes, hello: bytes | None, user: int) -> None:
        self.user = user
        self.live = self.closed = self.spoiled = False
        self.code: int | None = None  # of the close frame
        self.count = self.first = 0
        self._hello = hello
        self._upgrade: bytes | None = upgrade
        self._rest = b""
        self.sock = socket.socket()
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW_BYTES)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock.connect_ex(address)

    def start(self) -> None:
        """Asks for the upgrade, once connected."""
        if self._upgrade is not None:
            self.sock.send(self._upgrade)
            self._upgrade = None

    def read(self, crowd: Crowd) -> None:
        """Takes what has come."""
        try:
            data = self.sock.recv(RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.closed = True
            return
        data = self._rest + data
        if not self.live and data.startswith(b"HTTP/"):
            data = self._upgraded(data)
        self._rest = b"" if self.spoiled else self._frames(data, crowd, time.monotonic())

    def _upgraded(self, data: bytes) -> bytes:
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end:
            return data
        if not head.startswith(b"HTTP/1.1 101"):
            raise RuntimeError(f"no upgrade: {data!r}")
        if self._hello is None:
            self.live = True
        else:
            self.sock.send(text_frame(self._hello))
        return rest

    def _frames(self, data: bytes, crowd: Crowd, now: float) -> bytes:
        """Counts whole frames; returns the rest."""
        at, end = 0, len(data)
        while end - at >= 2:
            size, head = data[at + 1], 2
            if size >= 126:  # RFC 6455, 5.2
                head = 4 if size == 126 else 10
                size = int.from_bytes(data[at + 2 : at + head])
            start = at + head
            if start + size > end:
                break
            if data[at] == TEXT and data.startswith((b'{"t":"event"', b'[{"t":"event"'), start):
                if self.count % crowd.each == 0:
                    self._look(data[start : start + size], crowd, now)
                self.count += 1
                crowd.count += 1
                crowd.last_at = now
            else:
                self._control(data[at], data[start : start + size])
            at = start + size
        return data[at:]

    def _look(self, text: bytes, crowd: Crowd, now: float) -> None:
        try:
            frame = json.loads(text)
            seq = (frame[0] if isinstance(frame, list) else frame)["seq"]
        except ValueError:
            seq = -1
        if self.count == 0:
            self.first = seq
        elif seq != self.first + self.count:
            self.spoiled = True
            crowd.spoiled += 1
            return
        crowd.first_at = crowd.first_at or now
        crowd.samples.append((self.user, seq, now))

    def _control(self, opcode: int, body: bytes) -> None:
        if opcode == PING:
            self.sock.send(PONG)
        elif opcode == CLOSE:
            self.code = int.from_bytes(body[:2])
        elif body.startswith(b'{"t":"ping"'):
            self.sock.send(text_frame(b'{"t":"pong"}'))
        elif body.startswith(b'{"t":"live"'):
            self.live = True


class Crowd:
    """All the sockets, and what has been counted since the last `count`."""

    def __init__(self) -> None:
        self.each = 100
        self.count = self.spoiled = 0
        self.first_at = self.last_at = 0.0
        self.samples: list[tuple[int, int, float]] = []
        self._watchers: dict[int, Watcher] = {}
        self._pending: list[dict[str, Any]] = []
        self._connecting: set[Watcher] = set()
        self._stalled: list[Watcher] = []
        self._gone: list[int | None] = []
        self._due: Callable[[], dict[str, Any] | None] | None = None
        self._epoll = select.epoll()
        self._epoll.register(sys.stdin.fileno(), select.EPOLLIN)

    def serve(self) -> None:
        """Reads, and does what the lines say, until their end."""
        while True:
            for fd, _ in self._epoll.poll(0.5):
                if fd == sys.stdin.fileno():
                    line = sys.stdin.readline()
                    if not line:
                        return
                    command = json.loads(line)
                    self._due = getattr(self, "do_" + command.pop("do"))(**command)
                else:
                    self._serve_one(self._watchers[fd])
            answer = self._due and self._due()
            if answer:
                self._due = None
                print(json.dumps(answer), flush=True)

    def do_open(self, sockets: list[dict[str, Any]]) -> Callable[[], dict[str, Any] | None]:
        """Connects, some at once; the answer comes when all are live."""
        began, self._pending = time.monotonic(), sockets[::-1]
        self._connect()
        return lambda: None if self._pending or self._connecting else {"seconds": time.monotonic() - began}

    def do_count(self, frames: int, each: int) -> Callable[[], dict[str, Any] | None]:
        """Counts from 0; the answer comes when there were so many frames, or none for some seconds."""
        self.each, self.count, self.first_at, self.last_at, self.samples = each, 0, 0.0, math.inf, []
        for watcher in self._watchers.values():
            watcher.count = 0

        def answer() -> dict[str, Any] | None:
            if self.count < frames and time.monotonic() - self.last_at < SILENCE_S:
                return None
            return {"frames": self.count, "seconds": self.last_at - self.first_at, "samples": self.samples,
                    "gone": self._gone, "spoiled": self.spoiled}  # fmt: skip

        return answer

    def do_stall(self, user: int) -> Callable[[], dict[str, Any]]:
        """Reads one socket of the user's no more."""
        fd, watcher = next((fd, watcher) for fd, watcher in self._watchers.items() if watcher.user == user)
        self._epoll.unregister(fd)
        self._stalled.append(self._watchers.pop(fd))
        return lambda: {"port": watcher.sock.getsockname()[1]}

    def do_wake(self) -> Callable[[], dict[str, Any] | None]:
        """Reads the stalled ones to their end; the answer tells the close codes."""
        woken, self._stalled = self._stalled, []
        for watcher in woken:
            self._watchers[watcher.sock.fileno()] = watcher
            self._epoll.register(watcher.sock.fileno(), select.EPOLLIN)
        return lambda: {"codes": [w.code for w in woken]} if all(w.closed for w in woken) else None

    def _connect(self) -> None:
        while self._pending and len(self._connecting) < CONNECTING_AT_ONCE:
            to_do = self._pending.pop()
            upgrade = upgrade_request(to_do["path"], to_do.get("token"))
            hello = to_do["hello"].encode() if to_do.get("hello") else None
            watcher = Watcher((to_do["host"], to_do["port"]), upgrade, hello, to_do["user"])
            self._connecting.add(watcher)
            self._watchers[watcher.sock.fileno()] = watcher
            self._epoll.register(watcher.sock.fileno(), select.EPOLLIN | select.EPOLLOUT | select.EPOLLET)

    def _serve_one(self, watcher: Watcher) -> None:
        fd = watcher.sock.fileno()
        if not watcher.live:
            watcher.start()
        watcher.read(self)
        if watcher.live and watcher in self._connecting:
            self._connecting.discard(watcher)
            self._epoll.modify(fd, select.EPOLLIN)
            self._connect()
        if watcher.closed:
            if watcher in self._connecting:
                raise RuntimeError(f"closed before it was live, code {watcher.code}")
            self._gone.append(watcher.code)
            self._epoll.unregister(fd)
            del self._watchers[fd]
            watcher.sock.close()


def upgrade_request(path: str, token: str | None) -> bytes:
    """Returns the request of an upgrade, without compression."""
    authorization = f"Authorization: Bearer {token}\r\n" if token else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {'A' * 22}==\r\nSec-WebSocket-Version: 13\r\n{authorization}\r\n"
    ).encode()


def text_frame(text: bytes) -> bytes:
    """Returns a client's frame of a short text."""
    return bytes((TEXT, 0x80 | len(text), 0, 0, 0, 0)) + text


if __name__ == "__main__":
    gc.disable()
    Crowd().serve()
