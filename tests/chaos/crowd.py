"""A client process: many plain clients of the protocol, each of which cuts its own connections.

It says `up`. The first line of stdin is a `Crowd` as JSON. Then it answers one line to each of these: `cursors` (each
user's lowest, -1 as long as one has cuts to make), `finish` (writes the records to the file and ends).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import re
import socket as sockets
import struct
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tests.chaos.watch import Told, Watch, digest

CANARY = re.compile(rb"lwcanary[0-9a-f]{32}")
OPEN_S = 10.0
SILENCE_S = 60.0  # two pings
PAUSE_S = (0.05, 0.6)  # between two attempts, on top of what the service asks for
MIDDLE = 0.5  # of our cuts are followed by one in the middle of the replay, after so many events at most
EVENTS = 40
FROM_HEAD = 0.1  # of the followers want no more than what happens from then on
AWAY_S = 4.0  # at most, so that there is something to be replayed
RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True)
class Crowd:
    """What a client process is told.

    Args:
        urls: of the gateways' streams; each connection takes one of them by chance.
        users: name and token.
        sockets: for each user.
        cuts: own ones, for each socket.
        over_s: the time within which they come.
        log: the file for the records.
    """

    seed: str
    urls: list[str]
    users: list[tuple[str, str]]
    sockets: int
    cuts: int
    over_s: float
    log: str


@dataclass(frozen=True)
class Frame:
    """What a frame says, as far as anybody here needs it."""

    kind: str
    seq: int
    digest: str
    canaries: frozenset[str]
    body: dict[str, Any] = field(hash=False)


@lru_cache(maxsize=8192)  # the same bytes go to all of a user's sockets
def understand(data: bytes) -> Frame:
    """Returns what a frame says."""
    body = json.loads(data)
    canaries = frozenset(found.decode() for found in CANARY.findall(data))
    event = body["t"] == "event"
    return Frame(body["t"], body["seq"] if event else 0, digest(body) if event else "", canaries, {} if event else body)


class Follower:
    """One socket, through all its connections."""

    def __init__(self, crowd: Crowd, user: str, token: str, number: int) -> None:
        self._urls = crowd.urls
        self._token = token
        self._chance = random.Random(f"{crowd.seed} {user} {number}")
        self._over_s = crowd.over_s
        self._left = crowd.cuts  # cuts still to make
        self._owed = 0  # of these, cuts that there was no connection for
        self._socket: ClientConnection | None = None
        self._why = ""  # what cuts the present connection, if we do
        self._replaying = False
        self._from_head = False
        self._to_cut = 0  # after so many events of the replay; 0: not
        self._retry_s = 0.0
        self._over = False
        self._url = ""
        self.live = False
        self.watch = Watch(user, str(number))

    @property
    def cursor(self) -> int:
        """The last number accepted; -1 before it has caught up once and made all its cuts."""
        return self.watch.last if self.live and self._left <= 0 else -1

    async def run(self) -> None:
        """Follows until `end`."""
        for _ in range(self._left):
            asyncio.get_running_loop().call_later(self._chance.uniform(0, self._over_s), self._due)
        await asyncio.sleep(self._chance.choice((0, 0, 0, self._chance.uniform(0, self._over_s / 4))))
        self._from_head = self._chance.random() < FROM_HEAD
        while not self._over:
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                await self._connect()
            self._socket = None
            away_s = self._chance.choice((0, 0, self._chance.uniform(0, min(AWAY_S, self._over_s / 4))))
            await asyncio.sleep(max(self._retry_s, self._chance.uniform(*PAUSE_S), away_s if self._why else 0))

    def end(self) -> None:
        """Hangs up for good."""
        self._over = True
        if self._socket is not None:
            self._socket.transport.abort()

    def _due(self) -> None:
        """It is time for a cut: now, or as soon as there is a connection again, in the middle of its replay."""
        self._owed += 1
        self._cut(self._chance.choice(("abort", "reset")))

    def _cut(self, why: str) -> None:
        if self._socket is None or self._socket.transport.is_closing():
            return
        self._why = why
        self._owed = max(0, self._owed - 1)
        self._left -= 1
        if why == "reset":
            self._socket.transport.get_extra_info("socket").setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, RESET)
        self._socket.transport.abort()

    async def _connect(self) -> None:
        url = self._chance.choice(self._urls)
        middle = self._why in {"abort", "reset"} and self._chance.random() < MIDDLE
        self._retry_s, self._why = 0.0, ""
        async with connect(
            url, additional_headers={"Authorization": f"Bearer {self._token}"}, compression=None, max_size=None,
            open_timeout=OPEN_S, close_timeout=1, ping_interval=None, proxy=None,
        ) as socket:  # fmt: skip
            self.watch.moves += bool(self._url) and url != self._url
            self._url, self._socket, self._replaying = url, socket, True
            self._to_cut = self._chance.randint(1, EVENTS) if middle or self._owed else 0
            try:
                after = self.watch.last if self.watch.start is not None else None if self._from_head else 0
                await socket.send(json.dumps({"t": "hello", "v": 1, "after": after}))
                while True:
                    async with asyncio.timeout(SILENCE_S):
                        await self._take(understand(await socket.recv(decode=False)), after)
            except ConnectionClosed as error:
                self._note_end(error)

    async def _take(self, frame: Frame, after: int | None) -> None:
        self.watch.canaries |= frame.canaries
        if frame.kind == "event":
            if not self.watch.accept(frame.seq, frame.digest):
                self._cut("early")
            if self._replaying and self._to_cut > 0:
                self._to_cut -= 1
                if self._to_cut == 0:
                    self._cut("replay")
        elif frame.kind == "welcome":
            self._welcome(frame.body, after)
        elif frame.kind == "live":
            self._replaying, self.live = False, True
            if self._to_cut:  # the replay was shorter
                self._cut("abort")
        elif frame.kind == "ping" and self._socket is not None:
            await self._socket.send('{"t":"pong"}')
        elif frame.kind == "bye":
            self._retry_s = frame.body["retry_ms"] / 1000

    def _welcome(self, body: dict[str, Any], after: int | None) -> None:
        if self.watch.start is None:
            self.watch.start = body["head"] if after is None else after
        if self._to_cut and (missed := body["head"] - self.watch.last) > 0:
            self._to_cut = 1 + self._to_cut % missed  # within the replay, however short it is
        if not body["recovered"]:
            has_snapshot = isinstance(body["snapshot"], dict)
            self.watch.told.append(Told(self.watch.last, body["head"], body["reason"], has_snapshot))

    def _note_end(self, error: ConnectionClosed) -> None:
        if not self._over:
            closed = f"closed {error.rcvd.code}" if error.rcvd else "cut from outside"
            self.watch.cuts[self._why or closed] += 1
            self.watch.in_replay += self._replaying


async def main() -> None:
    """Follows, and answers."""
    reader = asyncio.StreamReader(limit=2**24)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    _say("up")
    crowd = Crowd(**json.loads(await reader.readline()))
    followers = [Follower(crowd, user, token, number) for user, token in crowd.users for number in range(crowd.sockets)]
    tasks = [asyncio.create_task(follower.run()) for follower in followers]
    while (order := (await reader.readline()).strip()) not in (b"", b"finish"):
        _say(_cursors(followers))
        if failed := next((task for task in tasks if task.done()), None):
            failed.result()
    for follower in followers:
        follower.end()
    for task in tasks:
        task.cancel()
    if order:
        _write(Path(crowd.log), followers)
        _say("written")


def _write(log: Path, followers: list[Follower]) -> None:
    log.write_text("".join(follower.watch.to_json() + "\n" for follower in followers))


def _cursors(followers: list[Follower]) -> dict[str, int]:
    lowest: dict[str, int] = {}
    for follower in followers:
        user = follower.watch.user
        lowest[user] = min(lowest.get(user, sys.maxsize), follower.cursor)
    return lowest


def _say(answer: Any) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())
