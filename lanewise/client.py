"""The Python client of the service: REST for asking, the stream for following."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from lanewise.endpoint import Endpoint
from lanewise.position import Position
from lanewise.rest import Json, Rest
from lanewise.run_stream import RunStream
from lanewise.stream import Event, Stream
from shared.states import ENDS

LONG_POLL_S = 20.0


class Client:
    """Submits runs, follows them, and reads what is the user's own. Use it in a `with` statement, or call `close`.

    Every call but `create_thread` can be repeated without harm, so those that fail for a passing reason (no connection,
    a lost answer, 429, 502, 503, 504) are repeated with growing, jittered pauses. A client may be used by several
    threads, a stream by one.

    Args:
        url: of the service, e.g. `http://127.0.0.1:8000`.
        token: a bearer token; whose it is decides whose runs these are.
        timeout_s: for one answer, seconds.
        retry_s: how long to repeat a call that fails for a passing reason, seconds.

    Raises:
        ConfigurationError: the URL or the token cannot be one. Every method raises `ApiError` and `UnreachableError`.
    """

    def __init__(self, url: str, token: str, *, timeout_s: float = 30.0, retry_s: float = 10.0) -> None:
        self._endpoint = Endpoint(url, token, timeout_s, retry_s)
        self._rest = Rest(self._endpoint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._endpoint.url!r})"

    def close(self) -> None:
        """Closes the connections."""
        self._rest.close()

    def agents(self) -> list[Json]:
        """Returns the agents that can be submitted to: name, description, input schema, limits."""
        return list(self._rest.pages("/v1/agents"))

    def me(self) -> Json:
        """Returns the user's limits, slots held and runs queued."""
        return self._rest.json("GET", "/v1/me")

    def submit(  # noqa: PLR0913 - the fields of the request
        self,
        agent: str,
        input: Any,  # noqa: A002 - its name in the contract
        *,
        thread_id: str | None = None,
        metadata: Json | None = None,
        time_limit_s: float | None = None,
        idempotency_key: str | None = None,
    ) -> Json:
        """Submits a run and returns it as it was accepted. A lost answer never makes two runs.

        Args:
            agent: its name.
            input: JSON, as the agent's schema says.
            thread_id: of an earlier run or thread; None: a new thread.
            metadata: JSON of your own, kept with the run.
            time_limit_s: running time over all attempts, seconds; None: the agent's own.
            idempotency_key: give one to be able to repeat the call later, even from another process.
        """
        optional = {"thread_id": thread_id, "metadata": metadata, "time_limit_s": time_limit_s}
        body = {"agent": agent, "input": input, **{key: value for key, value in optional.items() if value is not None}}
        return self._rest.json(
            "POST",
            "/v1/runs",
            json=body,
            headers={"Idempotency-Key": _quoted(idempotency_key or uuid.uuid4().hex)},
        )

    def run(self, run_id: str) -> Json:
        """Returns the run as it is now."""
        return self._rest.json("GET", _path("runs", run_id))

    def runs(
        self, *, status: str | None = None, thread_id: str | None = None, agent: str | None = None
    ) -> Iterator[Json]:
        """Iterates over the user's runs, newest first, page by page as you go."""
        return self._rest.pages("/v1/runs", status=status, thread_id=thread_id, agent=agent)

    def wait(self, run_id: str, timeout_s: float) -> Json:
        """Returns the run as soon as it has ended, or as it is after `timeout_s` seconds: look at its `status`."""
        deadline = time.monotonic() + timeout_s
        while True:
            slice_s = max(0.0, min(LONG_POLL_S, deadline - time.monotonic()))
            run = self._rest.json(
                "GET",
                _path("runs", run_id, "wait"),
                params={"timeout_s": round(slice_s, 3)},
                timeout=slice_s + self._endpoint.timeout_s,
            )
            if run["status"] in ENDS or time.monotonic() >= deadline:
                return run

    def cancel(self, run_id: str) -> Json:
        """Asks to cancel the run and returns it; one that has ended stays as it is."""
        return self._rest.json("POST", _path("runs", run_id, "cancel"))

    def retry(self, run_id: str, *, idempotency_key: str | None = None) -> Json:
        """Makes a new run of one that failed, timed out or was cancelled, and returns it; its `retry_of` is `run_id`.

        It goes on after the steps that the old one recorded. A lost answer never makes two runs.

        Args:
            run_id: of the ended run.
            idempotency_key: give one to be able to repeat the call later, even from another process.
        """
        headers = {"Idempotency-Key": _quoted(idempotency_key or uuid.uuid4().hex)}
        return self._rest.json("POST", _path("runs", run_id, "retry"), headers=headers)

    def events(self, run_id: str, after: int = 0) -> Iterator[Event]:
        """Iterates over the run's events so far with `run_seq` above `after`."""
        while True:
            page = self._rest.json("GET", _path("runs", run_id, "events"), params={"after": after})
            yield from page["items"]
            if page["next_cursor"] is None or not page["items"]:
                return
            after = page["items"][-1]["run_seq"]

    def stream(
        self, after: int | None = None, run_id: str | None = None, *, position: Path | str | None = None
    ) -> Stream:
        """Returns an iterator over events as they happen; each comes once, in order, over reconnects too.

        Args:
            after: start with everything after this `seq` (0: all that is kept); None: from now on, or with `run_id`
                from the run's first event.
            run_id: only this run; the iteration ends after its last event.
            position: a file in which the stream keeps how far it has come, and from which it goes on the next time;
                `after` then says only where to begin without one. Not with `run_id`.

        Raises:
            ValueError: `position` with `run_id`, or a file that holds something else.
        """
        if run_id is None:
            return Stream(self._endpoint, after, None if position is None else Position(Path(position)))
        if position is not None:
            raise ValueError("a position is one in the stream of all runs: leave out run_id")
        return RunStream(run_id, lambda run_seq: self.events(run_id, run_seq), self._endpoint, after)

    def threads(self) -> Iterator[Json]:
        """Iterates over the user's threads."""
        return self._rest.pages("/v1/threads")

    def create_thread(self, metadata: Json | None = None) -> Json:
        """Makes a thread. Not repeated when the answer is lost, for that could make two."""
        body = {} if metadata is None else {"metadata": metadata}
        return self._rest.json("POST", "/v1/threads", json=body, passing=frozenset())

    def thread(self, thread_id: str) -> Json:
        """Returns the thread."""
        return self._rest.json("GET", _path("threads", thread_id))

    def delete_thread(self, thread_id: str) -> None:
        """Deletes the thread: cancels its live runs, and removes its data once they have ended."""
        self._rest.call("DELETE", _path("threads", thread_id))

    def documents(self) -> Iterator[Json]:
        """Iterates over the user's documents: names and sizes, not contents."""
        return self._rest.pages("/v1/documents")

    def put_document(self, name: str, content: bytes | str) -> Json:
        """Stores a document, new or in place of an old one; text is stored as UTF-8."""
        data = content.encode() if isinstance(content, str) else content
        headers = {"Content-Type": "application/octet-stream"}
        return self._rest.json("PUT", _path("documents", name), content=data, headers=headers)

    def document(self, name: str) -> bytes:
        """Returns the content of a document."""
        return self._rest.call("GET", _path("documents", name)).content

    def delete_document(self, name: str) -> None:
        """Deletes a document."""
        self._rest.call("DELETE", _path("documents", name))

    def artifact(self, run_id: str, name: str) -> bytes:
        """Returns a file that a run saved."""
        return self._rest.call("GET", _path("runs", run_id, "artifacts", name)).content

    def limits(self, user_id: str) -> Json:
        """Returns a user's limits: their own, and those that hold. This and what follows asks for the scope `admin`."""
        return self._rest.json("GET", _path("admin", "users", user_id, "limits"))

    def set_limits(self, user_id: str, *, concurrent_runs: int | None = None, queued_runs: int | None = None) -> Json:
        """Sets a user's limits and returns them; None: the fleet's."""
        body = {"concurrent_runs": concurrent_runs, "queued_runs": queued_runs}
        return self._rest.json("PUT", _path("admin", "users", user_id, "limits"), json=body)

    def grants(self, user_id: str) -> list[Json]:
        """Returns the tools that need a grant and that the user has one for: `tool`, `expires_at`, who and when."""
        return list(self._rest.json("GET", _path("admin", "users", user_id, "grants"))["items"])

    def set_grants(self, user_id: str, tools: Mapping[str, str | None]) -> list[Json]:
        """Makes these the user's grants, and no others; each with the RFC 3339 time when it ends, None: it does not."""
        body = {"tools": [{"tool": tool, "expires_at": end} for tool, end in tools.items()]}
        return list(self._rest.json("PUT", _path("admin", "users", user_id, "grants"), json=body)["items"])

    def delete_user(self, user_id: str, timeout_s: float = 20.0) -> Json:
        """Deletes all that a user has; returns how far that is after `timeout_s` seconds at most: look at its `status`.

        From the call on nothing new of the user is accepted. Called again, it deletes what a new user of that id has.
        """
        return self._rest.json(
            "DELETE",
            _path("admin", "users", user_id),
            params={"timeout_s": timeout_s},
            timeout=timeout_s + self._endpoint.timeout_s,
        )

    def deletion(self, user_id: str) -> Json:
        """Returns how far the deletion of a user is, or how the last one ended."""
        return self._rest.json("GET", _path("admin", "users", user_id, "deletion"))


def _path(*parts: str) -> str:
    return "/".join(("/v1", *(quote(part, safe="") for part in parts)))


def _quoted(text: str) -> str:
    """Returns a string as structured header fields have it (RFC 8941)."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
