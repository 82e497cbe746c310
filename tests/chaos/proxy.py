"""What leads to stores and gateways passes through this process, which can spoil it: `python -m tests.chaos.proxy`.

It reads one order per line from stdin and answers one line: see `Proxy`. The kernel of this machine acknowledges what a
half-open connection swallows, so what TCP_USER_TIMEOUT would do after its time is done here.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from tests.chaos.wire import Reply, Transaction

CHUNK = 65_536
HALF_OPEN_S = 20.0  # as our database connections have it
TRICKLE_BYTES, TRICKLE_S = 512, 0.005
Mood = Literal["", "stall", "trickle", "delay"]


@dataclass(eq=False)
class Link:
    """One connection, from both ends."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    swallows: bool = False
    transaction: Transaction = field(default_factory=Transaction)
    reply: Reply | None = None  # held back, because it is to get lost

    def reset(self) -> None:
        """Ends it as a crash would: both ends get a reset, and what was on its way is lost."""
        for writer in (self.client, self.server):
            if writer.is_closing():
                continue
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.cut()

    def cut(self) -> None:
        """Ends it without a word."""
        for writer in (self.client, self.server):
            writer.transport.abort()


class Route:
    """A port of ours that leads to a store or a gateway.

    Args:
        upstream: where to.
    """

    def __init__(self, upstream: int) -> None:
        self._upstream = upstream
        self._links: set[Link] = set()
        self._mood: Mood = ""
        self._mood_until = 0.0
        self._calm = asyncio.Event()
        self._calm.set()
        self._touched = 0
        self._losing: str | None = None  # a part of the name of what is to get lost
        self._lost: list[str] = []

    async def open(self) -> int:
        """Listens; returns the port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return int(server.sockets[0].getsockname()[1])

    def cut(self, share: float, seed: int) -> int:
        """Cuts a share of the connections; returns how many."""
        chosen = self._choose(share, seed)
        for link in chosen:
            link.reset()
        return len(chosen)

    def half_open(self, share: float, seed: int) -> int:
        """From now on a share of the connections swallows everything and ends after a while; returns how many."""
        self._touched = 0
        chosen = self._choose(share, seed)
        loop = asyncio.get_running_loop()
        for link in chosen:
            link.swallows = True
            loop.call_later(HALF_OPEN_S, link.cut)
        return len(chosen)

    def spoil(self, mood: Mood, for_s: float) -> int:
        """Spoils all connections, also new ones, for a while; returns how many there are."""
        self._touched, self._mood = 0, mood
        self._mood_until = time.monotonic() + for_s
        if mood == "stall":
            self._calm.clear()
        asyncio.get_running_loop().call_later(for_s, self._relent)
        return len(self._links)

    def touched(self) -> int:
        """Returns how many pieces of data the last order has spoilt."""
        return self._touched

    def lose(self, what: str | None) -> None:
        """Has the answer of the next commit get lost whose writes have this in a name; None: of none any more."""
        self._losing, self._lost = what, []

    def lost(self) -> list[str]:
        """Returns what the commits had written whose answers got lost since then."""
        return self._lost

    def _relent(self) -> None:
        if time.monotonic() >= self._mood_until - 0.001:
            self._mood = ""
            self._calm.set()

    def _choose(self, share: float, seed: int) -> list[Link]:
        links = [link for link in self._links if not link.swallows]
        links.sort(key=lambda link: int(link.client.get_extra_info("peername")[1]))
        count = max(1, round(share * len(links)))
        return random.Random(seed).sample(links, min(count, len(links)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            upstream, server = await asyncio.open_connection("127.0.0.1", self._upstream)
        except OSError:
            writer.transport.abort()
            return
        # Else the kernel would take megabytes in for us before whoever writes notices a stall.
        server.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, CHUNK)
        link = Link(writer, server)
        self._links.add(link)
        ways = [
            asyncio.create_task(self._pump(link, reader, server, self._asked)),
            asyncio.create_task(self._pump(link, upstream, writer, self._answered)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.ALL_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            link.cut()
            self._links.discard(link)

    async def _pump(
        self,
        link: Link,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look: Callable[[Link, bytes], bytes],
    ) -> None:
        with contextlib.suppress(OSError, asyncio.CancelledError):
            while data := await reader.read(CHUNK):
                if self._mood and not link.swallows:
                    self._touched += 1
                    await self._spoilt()
                if link.swallows:
                    self._touched += 1
                elif data := look(link, data):
                    await self._send(writer, data)
        if not link.swallows:  # a half-open connection keeps even its end to itself
            with contextlib.suppress(OSError, RuntimeError):
                writer.close()

    async def _spoilt(self) -> None:
        await self._calm.wait()
        if self._mood == "delay":
            await asyncio.sleep(random.uniform(0.02, 0.2))

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while self._mood == "trickle" and data:
            writer.write(data[:TRICKLE_BYTES])
            await writer.drain()
            data = data[TRICKLE_BYTES:]
            await asyncio.sleep(TRICKLE_S)
        writer.write(data)
        await writer.drain()

    def _asked(self, link: Link, data: bytes) -> bytes:
        commits = link.transaction.hear(data)
        if self._losing is not None and commits and any(self._losing in name for name in link.transaction.writes):
            self._losing = None
            link.reply = Reply()
        return data

    def _answered(self, link: Link, data: bytes) -> bytes:
        if link.reply is None:
            return data
        link.reply.take(data)
        if not link.reply.done:
            return b""
        reply, link.reply = link.reply, None
        if reply.failed:  # nothing was committed
            return bytes(reply.data)
        self._lost.append(", ".join(link.transaction.writes))
        link.cut()
        return b""


class Proxy:
    """Carries out orders: a JSON object with `route`, `do` (a method of `Route`) and its arguments.

    Args:
        upstreams: ports by the name of their route.
    """

    def __init__(self, upstreams: dict[str, int]) -> None:
        self._routes = {name: Route(port) for name, port in upstreams.items()}

    async def run(self) -> None:
        """Answers the ports first; ends with stdin."""
        self._say({name: await route.open() for name, route in self._routes.items()})
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        while line := await reader.readline():
            order = json.loads(line)
            route, do = self._routes[order.pop("route")], order.pop("do")
            self._say(getattr(route, do)(**order))

    def _say(self, answer: Any) -> None:
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(Proxy(json.loads(sys.argv[1])).run())
