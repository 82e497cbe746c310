"""The load generator, in a process of its own: `python -m benchmarks.load KIND`, parameters and answer as JSON.

It speaks plain HTTP/1.1 and WebSocket with as little of its own as possible, for it shares the machine with the fleet.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio import StreamReader, StreamWriter, TaskGroup
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect

WAIT_S = 80.0
SUBMITTERS = 4

OnEvent = Callable[[dict[str, Any], float], None]


class User:
    """One user: keep-alive connections to submit by, and one WebSocket.

    Args:
        url: of the service.
        token: whose connections these are.
        on_event: called with each event and the time (`perf_counter`) when it came.
    """

    def __init__(self, url: str, token: str, on_event: OnEvent) -> None:
        self._address = urlsplit(url)
        self._authorization = f"Bearer {token}"
        self._on_event = on_event

    async def watch(self, group: TaskGroup) -> None:
        """Connects, waits until the stream is live, and reads it in a task of the group until `close`."""
        self._stream = await connect(
            f"ws://{self._address.netloc}/v1/stream",
            additional_headers={"Authorization": self._authorization},
            compression=None,
            ping_interval=None,
            proxy=None,
            max_queue=None,
        )
        await self._stream.send('{"t":"hello","v":1,"after":null}')
        while json.loads(await self._stream.recv())["t"] != "live":
            pass
        group.create_task(self._read(self._stream))

    async def close(self) -> None:
        """Ends the stream."""
        await self._stream.close()

    async def connect(self) -> tuple[StreamReader, StreamWriter]:
        """Returns a connection to submit by."""
        return await asyncio.open_connection(self._address.hostname, self._address.port)

    async def submit(self, by: tuple[StreamReader, StreamWriter], agent: str, run_input: dict[str, Any]) -> None:
        """Submits a run and waits until it is accepted."""
        reader, writer = by
        body = json.dumps({"agent": agent, "input": run_input})
        writer.write(
            f"POST /v1/runs HTTP/1.1\r\nHost: {self._address.netloc}\r\nAuthorization: {self._authorization}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        answer = await reader.readexactly(int(head.partition("content-length:")[2].split()[0]))
        if not head.startswith("http/1.1 202"):
            raise RuntimeError(f"not accepted: {answer.decode()}")

    async def _read(self, stream: ClientConnection) -> None:
        async for text in stream:
            now = time.perf_counter()
            frame = json.loads(text)
            if frame["t"] == "event":
                self._on_event(frame, now)
            elif frame["t"] == "ping":
                await stream.send('{"t":"pong"}')


def is_end(event: dict[str, Any]) -> bool:
    """Tells whether the run has ended with this event; a run that did not complete spoils the measurement."""
    if event["type"] in ("run_failed", "run_cancelled", "run_timed_out"):
        raise RuntimeError(f"a run did not complete: {event}")
    return bool(event["type"] == "run_completed")


async def runs(url: str, tokens: list[str], count: int, outstanding: int, connections: int) -> dict[str, float]:
    """Completes `count` no-op runs; each user has `outstanding` of them under way, submitted by some connections."""
    all_ended = asyncio.Event()
    to_submit = to_end = count

    def a_user(token: str) -> tuple[User, asyncio.Semaphore]:
        free = asyncio.Semaphore(outstanding)

        def on_event(event: dict[str, Any], _now: float) -> None:
            nonlocal to_end
            if is_end(event):
                free.release()
                to_end -= 1
                if to_end == 0:
                    all_ended.set()

        return User(url, token, on_event), free

    async def submit(user: User, free: asyncio.Semaphore) -> None:
        nonlocal to_submit
        connection = await user.connect()
        while to_submit > 0:
            to_submit -= 1
            await free.acquire()
            await user.submit(connection, "bench_noop", {})

    async with TaskGroup() as group:
        users = [a_user(token) for token in tokens]
        for user, _ in users:
            await user.watch(group)
        began = time.perf_counter()
        for user, free in users * connections:
            group.create_task(submit(user, free))
        await all_ended.wait()
        seconds = time.perf_counter() - began
        for user, _ in users:
            await user.close()
    return {"seconds": seconds}


async def latency(
    url: str, token: str, count: int, agent: str = "bench_noop", run_input: dict[str, Any] | None = None
) -> list[dict[str, float]]:
    """Runs an agent again and again; returns for each run when what was seen, seconds after the submission began."""
    came: asyncio.Queue[tuple[str, float, bool]] = asyncio.Queue()
    seen = []
    async with TaskGroup() as group:
        user = User(url, token, lambda event, now: came.put_nowait((event["type"], now, is_end(event))))
        await user.watch(group)
        connection = await user.connect()
        for _ in range(count):
            began = time.perf_counter()
            await user.submit(connection, agent, run_input or {})
            moments = {"accepted": time.perf_counter() - began}
            over = False
            while not over:
                kind, now, over = await came.get()
                moments[kind] = now - began
            seen.append(moments)
        await user.close()
    return seen


async def events(url: str, token: str, agents: int, run_input: dict[str, Any]) -> dict[str, Any]:
    """Has agents stream texts, see `benchmarks.agents.ChattyInput`.

    Returns:
        the seconds from the first text's emission until the last one was here, and for each text from its own.
    """
    emitted: list[float] = []
    delays: list[float] = []
    all_ended = asyncio.Event()
    to_end = agents

    def on_event(event: dict[str, Any], now: float) -> None:
        nonlocal to_end
        if event["type"] == run_input["kind"]:
            moments = [float(text) for text in event["data"]["text"].split()]
            emitted.extend(moments)
            delays.extend(now - moment for moment in moments)
        elif is_end(event):
            to_end -= 1
            if to_end == 0:
                all_ended.set()

    async with TaskGroup() as group:
        user = User(url, token, on_event)
        await user.watch(group)
        connection = await user.connect()
        for _ in range(agents):
            await user.submit(connection, "bench_chatty", run_input)
        await all_ended.wait()
        await user.close()
    return {"seconds": emitted[-1] + delays[-1] - min(emitted), "delays": delays}


async def submissions(
    url: str, tokens: list[str], count: int, agent: str, run_input: dict[str, Any]
) -> dict[str, float]:
    """Submits `count` runs of each user, one user after the other, over a few connections; waits for no run.

    Returns:
        the seconds that it took.
    """
    began = time.perf_counter()
    for token in tokens:
        user, to_submit = User(url, token, lambda _event, _now: None), iter(range(count))

        async def submit(user: User, to_submit: Iterator[int]) -> None:
            connection = await user.connect()
            for _ in to_submit:
                await user.submit(connection, agent, run_input)
            connection[1].close()

        async with TaskGroup() as group:
            for _ in range(min(SUBMITTERS, count)):
                group.create_task(submit(user, to_submit))
    return {"seconds": time.perf_counter() - began}


async def turns(url: str, token: str, turn: str, count: int) -> list[float]:
    """Adds a parked run, then ends the user's running one so that a parked one starts, again and again.

    Args:
        url: of the service.
        token: whose run of `bench_turn` occupies the user's only slot.
        turn: the file that the runs wait for.
        count: how often.

    Returns:
        seconds until each submission was accepted.
    """
    started = asyncio.Event()

    def on_event(event: dict[str, Any], _now: float) -> None:
        if event["type"] == "run_started":
            started.set()

    seen = []
    async with TaskGroup() as group:
        user = User(url, token, on_event)
        await user.watch(group)
        connection = await user.connect()
        for _ in range(count):
            began = time.perf_counter()
            await user.submit(connection, "bench_turn", {"turn": turn})
            seen.append(time.perf_counter() - began)
            started.clear()
            await asyncio.to_thread(Path(turn).touch)
            await started.wait()
        await user.close()
    return seen


LOADS: dict[str, Callable[..., Any]] = {
    "runs": runs, "latency": latency, "events": events, "submissions": submissions, "turns": turns,
}  # fmt: skip


def _bare(kind: str, parameters: dict[str, Any]) -> Any:
    from benchmarks.bare_load import LOADS  # noqa: PLC0415 - needs a broker in the environment

    return LOADS[kind](**parameters)


async def _in_time(kind: str, parameters: dict[str, Any]) -> Any:
    async with asyncio.timeout(WAIT_S):
        return await LOADS[kind](**parameters)


def main() -> None:
    """Measures what the first argument names."""
    kind, parameters = sys.argv[1], json.load(sys.stdin)
    result = asyncio.run(_in_time(kind, parameters)) if kind in LOADS else _bare(kind, parameters)
    print(json.dumps({"result": result, "cpu_s": time.process_time()}))


if __name__ == "__main__":
    main()
