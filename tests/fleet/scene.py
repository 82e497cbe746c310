"""A scene: users with three runs each, all at work at the same time, and everything that anybody gets to see of it."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from lanewise.process import wait_until
from shared.models import Passage
from tests.fleet.agents_acceptance import READABLE, everything
from tests.fleet.canaries import NOBODY, Canaries, Leak, Sight
from tests.fleet.fleet import Fleet, new_user

RUNS_EACH = 3


class Scene:
    """See the module; `play` it once.

    Args:
        fleet: with a slot for every run.
        folder: empty; the runs meet there.
        users: how many.
        patience_s: how long to wait for the last events to reach everybody. A planted leak may keep them away.
    """

    def __init__(self, fleet: Fleet, folder: Path, users: int, patience_s: float) -> None:
        self.fleet = fleet
        self.patience_s = patience_s
        self.canaries = Canaries()
        self.users = [new_user(f"u{number}") for number in range(users)]
        self.runs: dict[str, list[str]] = {user: [] for user in self.users}
        self.threads: dict[str, str] = {}
        self.documents: dict[str, str] = {}
        self.artifacts: dict[str, dict[str, str]] = {user: {} for user in self.users}
        self.sights: list[Sight] = []
        self.reports: list[dict[str, list[str]]] = []
        self.answers_about_others: set[tuple[int, str]] = set()  # status and code
        self._folder = folder

    def play(self) -> list[Leak]:
        """Lets it happen, looks everywhere, and returns what the wrong eyes saw."""
        with ExitStack() as eyes, ThreadPoolExecutor(len(self.users)) as pool:
            eyes.enter_context(self._watching_redis())
            for user in self.users:
                eyes.enter_context(self._watching_stream(user, "live", None))
            list(pool.map(self._write, self.users))
            for user in self.users:
                for run_id in self.runs[user]:
                    self.fleet.wait(user, run_id, status=None)
            for user in self.users:
                eyes.enter_context(self._watching_stream(user, "replay", 0))
                eyes.enter_context(self._watching_stream(user, "snapshot", None))
            wait_until(self._everybody_saw_the_ends, self.patience_s)
            list(pool.map(self._read_rest, self.users))
        for user in self.users:
            self._read_database(user)
            self._read_reports(user)
        self._read_redis()
        for name, text in self.fleet.logs().items():
            self._see(NOBODY, "log", name, text)
        return self.canaries.leaks(self.sights)

    def _see(self, by: str, way: str, at: str, content: str | bytes) -> None:
        self.sights.append(Sight(by, way, at, content.encode() if isinstance(content, str) else content))

    def _write(self, user: str) -> None:
        """Leaves a canary in each thing that a user can give, and has the agents leave them where agents can."""
        http = self.fleet.http(user)

        def new(*places: str) -> dict[str, Any]:
            return {place: self.canaries.make(user, place) for place in places}

        self.documents[user] = self.canaries.make(user, "document name")
        stored = http.put(f"/v1/documents/{self.documents[user]}", content=json.dumps(new("document")).encode())
        assert stored.status_code == 201, stored.text
        with self.fleet.services.database.user_session(user) as session:  # as a run of `research` does
            words = {"heading": self.canaries.make(user, "passage"), "text": self.canaries.make(user, "passage")}
            session.add(Passage(user_id=user, document=self.documents[user], number=1, sha256="", start_char=0,
                                end_char=1, **words))  # fmt: skip
        thread = http.post("/v1/threads", json={**new("title"), "metadata": new("thread metadata")})
        self.threads[user] = thread.json()["id"]
        for number in range(RUNS_EACH):
            places = new("thinking", "progress", "token", "store", "result", "input", "step", "state", "memory")
            places |= new("artifact")
            places |= new("error") if number == RUNS_EACH - 1 else {}
            meeting = {"barrier": str(self._folder), "runs": len(self.users) * RUNS_EACH}
            key = self.canaries.make(user, "key")
            run = http.post(
                "/v1/runs",
                json={"agent": "spy", "input": {**places, **meeting}, "thread_id": self.threads[user],
                      "metadata": new("run metadata")},
                headers={"Idempotency-Key": key},
            )  # fmt: skip
            assert run.status_code == 202, run.text
            self.runs[user].append(run.json()["id"])
            self.artifacts[user][run.json()["id"]] = places["artifact"]

    @contextmanager
    def _watching_stream(self, user: str, name: str, after: int | None) -> Iterator[None]:
        """Keeps every frame that the user gets over a WebSocket."""
        headers = {"Authorization": f"Bearer {self.fleet.token(user)}"}
        with connect(self.fleet.stream_url, additional_headers=headers) as socket:
            socket.send(json.dumps({"t": "hello", "v": 1, "after": after}))

            def listen() -> None:
                with suppress(ConnectionClosed):
                    for text in socket:
                        self._see(user, f"websocket {name}", "frame", text)

            listener = threading.Thread(target=listen)
            listener.start()
            try:
                yield
            finally:
                socket.close()
                listener.join()

    def _everybody_saw_the_ends(self) -> bool:
        ends = [s for s in list(self.sights) if b'"type":"run_completed"' in s.content or b'_failed"' in s.content]
        return all(
            sum((sight.by, sight.way) == (user, way) for sight in ends) > RUNS_EACH
            for user in self.users
            for way in ("websocket live", "websocket replay")
        )

    def _read_rest(self, user: str) -> None:
        """Asks for everything that can be got: the user's own, and what the next user has."""
        http = self.fleet.http(user)
        other = self.users[(self.users.index(user) + 1) % len(self.users)]
        for template, methods in http.get("/openapi.json").json()["paths"].items():
            if "get" not in methods:
                continue
            expected = 403 if template.startswith("/v1/admin/") else 200
            for path in self._paths(template, user):
                answer = http.get(path, params={"timeout_s": 0} if path.endswith("/wait") else None)
                assert answer.status_code == expected, (path, answer.text)
                self._see(user, "rest", path, answer.content)
            of_a_user = "{" in template and not template.startswith(("/v1/admin/", "/console/"))
            for path in self._paths(template, other) if of_a_user else []:
                self._ask_about_other(user, "GET", path)
        for run_id in self.runs[other]:
            for verb in ("cancel", "retry"):
                self._ask_about_other(user, "POST", f"/v1/runs/{run_id}/{verb}")
        self._ask_about_other(user, "DELETE", f"/v1/threads/{self.threads[other]}")
        body = {"agent": "talk", "input": {"text": ""}, "thread_id": self.threads[other]}
        self._ask_about_other(user, "POST", "/v1/runs", json=body)
        for filters in ({"thread_id": self.threads[other]}, {"limit": "200"}, {"agent": "spy"}):
            self._see(user, "rest", f"/v1/runs?{filters}", http.get("/v1/runs", params=filters).content)

    def _ask_about_other(self, user: str, method: str, path: str, **request: Any) -> None:
        answer = self.fleet.http(user).request(method, path, **request)
        self._see(user, "rest", f"{method} {path} of another", answer.content)
        is_json = answer.is_error and "json" in answer.headers["Content-Type"]
        self.answers_about_others.add((answer.status_code, answer.json()["code"] if is_json else ""))

    def _paths(self, template: str, user: str) -> list[str]:
        """Fills a route; one with a parameter that is not known here fails the test."""
        if template.endswith("/artifacts/{name}"):
            artifacts = self.artifacts[user].items()
            return [template.format(run_id=run_id, name=f"{artifact}.txt") for run_id, artifact in artifacts]
        known = {"run_id": self.runs[user], "thread_id": [self.threads[user]], "name": [self.documents[user]],
                 "number": ["1"], "user_id": [user], "file_name": ["main.js"]}  # fmt: skip
        names = re.findall(r"{(\w+)}", template)
        filled = itertools.product(*(known[name] for name in names))
        return [template.format(**dict(zip(names, values, strict=True))) for values in filled]

    def _read_database(self, user: str) -> None:
        """Reads every table as the service does for this user, without any filter."""
        with self.fleet.services.database.user_session(user) as session:
            for table in session.scalars(sa.text(READABLE)).all():
                for value in everything(session, table):
                    self._see(user, "database", table, value)

    def _read_reports(self, user: str) -> None:
        """Takes what the user's sandboxes found in themselves."""
        for run_id in self.runs[user]:
            thoughts = [e["data"]["text"] for e in self.fleet.events(user, run_id) if e["type"] == "agent_thinking"]
            assert thoughts[-1].startswith("{"), self.fleet.run(user, run_id)
            report = json.loads(thoughts[-1])
            self.reports.append(report)
            for name, words in report.items():
                self._see(user, f"sandbox {name}", run_id, " ".join(words))

    @contextmanager
    def _watching_redis(self) -> Iterator[None]:
        """Keeps every command that reaches Redis, from whomever: publications and the broker's messages too."""
        client = self.fleet.admin_redis()
        with client.monitor() as monitor:  # type: ignore[no-untyped-call]
            done = threading.Event()

            def listen() -> None:
                while not done.is_set():
                    command = str(monitor.next_command()["command"])
                    self._see(self._owner_of(command), "redis", command.split(maxsplit=1)[0], command)

            listener = threading.Thread(target=listen)
            listener.start()
            try:
                yield
            finally:
                done.set()
                client.ping()  # the last command that it hears
                listener.join()

    def _read_redis(self) -> None:
        client = self.fleet.admin_redis()
        for key in client.scan_iter(count=1000):
            if client.type(key) == "string":
                self._see(self._owner_of(key), "redis", key, f"{key} {client.get(key)!s}")

    def _owner_of(self, text: str) -> str:
        """Returns whose key or channel a command names; NOBODY if no user's, or several users'."""
        keys = self.fleet.services.keys
        named = [user for user in self.users if keys.events(user).removesuffix("events") in text]
        return named[0] if len(named) == 1 else NOBODY
