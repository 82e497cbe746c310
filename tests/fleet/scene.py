"""A scene: users whose runs are at work at the same time, and everything that anybody gets to see of it."""

from __future__ import annotations

import itertools
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import sqlalchemy as sa
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from lanewise import Client
from lanewise.process import wait_until
from shared.models import Passage
from shared.states import ENDS
from tests import plain
from tests.fleet.agents_acceptance import READABLE, Places, everything
from tests.fleet.canaries import NOBODY, Canaries, Leak
from tests.fleet.fleet import Fleet, new_user

_PREFIX = re.compile(r"lw:\w+:\{[0-9a-f]{32}\}:")
_END = re.compile(r'"type":"run_(completed|failed)"')
_SEQ = re.compile(r'"seq":(\d+)')
GIVEN = {"input", "run metadata", "result", "error"}
SAID = {"thinking", "progress", "token", "parameter", "tool_error", "artifact_name", "error"}
KEPT = {"step", "state", "memory", "artifact", "artifact_name"}
DOCUMENT = {"document", "document name", "passage"}
IN_INPUT = SAID | KEPT | {"input", "store", "file", "file_name", "result"}
# Where a user has to find the own canaries, at least; else we looked past them.
OWN = {
    "rest": GIVEN | SAID | DOCUMENT | {"title", "thread metadata", "artifact"},
    "websocket live": SAID,
    "websocket resumed": SAID,
    "websocket replay": SAID,
    "websocket snapshot": {"input", "run metadata", "progress", "result", "error"},
    "database": GIVEN | SAID | KEPT | DOCUMENT | {"title", "thread metadata", "key"},
    "redis": SAID | {"store"},
    "sandbox memory at start": IN_INPUT,  # a sandbox has its input then
    "sandbox memory": IN_INPUT,
    "sandbox state": {"state", "memory"},
    "sandbox rows": DOCUMENT,
    "sandbox store": {"store"},
    "sandbox folder": {"file", "file_name"},
    "sandbox cache": {"file", "result"},
}
LINKS = 3  # of a sandbox: one to its own runner, two of its event loop, and none of anybody else's
ENDED_S = 60
AT_ONCE = 16  # users that are served by us
ASKED_FOR = 5  # of the runs of another
AT_HAND = 200  # of the last events, in the memory of a gateway


class Scene:
    """See the module; `play` it once.

    Args:
        fleet: with a slot for every run, if they meet.
        users: how many.
        runs_each: the last one of each user fails.
        patience_s: how long to wait for the last events to reach everybody. A planted leak may keep them away.
        folder: empty; the runs meet there, all of them. None: they do not.
        urls: of the fleet's apis; each user goes from one to the next.
        tell: is told how far it is.
    """

    def __init__(  # noqa: PLR0913 - what a scene is made of, all named
        self, fleet: Fleet, *, users: int, runs_each: int, patience_s: float, folder: Path | None = None,
        urls: Sequence[str] = (), tell: Callable[[str], None] = lambda _: None,
    ) -> None:  # fmt: skip
        self.fleet = fleet
        self.patience_s = patience_s
        self.canaries = Canaries()
        self.users = [new_user(f"u{number}") for number in range(users)]
        self.runs: dict[str, list[str]] = {user: [] for user in self.users}
        self.threads: dict[str, str] = {}
        self.documents: dict[str, str] = {}
        self.artifacts: dict[str, dict[str, str]] = {user: {} for user in self.users}
        self.reports: set[str] = set()  # runs whose sandboxes have told what they saw
        self.unexpected: list[str] = []  # answers that were not what they must be
        self.answers_about_others: set[tuple[int, str]] = set()  # status and code
        self.ends: Counter[tuple[str, str]] = Counter()  # seen by a user, by way
        self._heads: dict[str, int] = {}  # the last event that each user saw live
        self._tell = tell
        self._runs_each = runs_each
        self._folder = folder
        self._urls = list(urls) or [fleet.url]
        keys = fleet.services.keys
        self._prefixes = {keys.events(user).removesuffix("events"): user for user in self.users}

    def play(self) -> list[Leak]:
        """Lets it happen, looks everywhere, and returns what the wrong eyes saw."""
        with ExitStack() as eyes, ThreadPoolExecutor(min(len(self.users), AT_ONCE)) as pool:
            eyes.enter_context(self._watching_redis())
            for user in self.users:
                eyes.enter_context(self._watching_stream(user, "live", None))
            list(pool.map(self._write, self.users))
            self._tell("all runs are submitted")
            list(pool.map(self._wait, self.users))
            self._tell("all runs have ended")
            for user in self.users:
                eyes.enter_context(self._watching_stream(user, "replay", 0))
                eyes.enter_context(self._watching_stream(user, "snapshot", None))
            wait_until(self._everybody_saw_the_ends, self.patience_s)
            self._tell("all streams are read")
            list(pool.map(self._read_rest, self.users))
            self._tell("all answers are read")
        for user in self.users:
            self._read_database(user)
        self._read_redis()
        self._read_what_is_nobodys()
        return self.canaries.leaks

    def unseen(self) -> dict[str, set[str]]:
        """Returns the places that a user should have seen and did not, by user and way."""
        return {
            f"{user}, {way}": missed
            for user in self.users
            for way, places in OWN.items()
            if (self._folder or way != "sandbox memory")  # who meets nobody looks at the start only
            and (missed := self.canaries.unseen(user, way, places))
        }

    def _write(self, user: str) -> None:
        """Leaves a canary in each thing that a user can give, and has the agents leave them where agents can."""

        def new(*places: str) -> dict[str, Any]:
            return {place: self.canaries.make(user, place) for place in places}

        with self._http(user) as http:
            thread = http.post("/v1/threads", json={**new("title"), "metadata": new("thread metadata")})
            self.threads[user] = thread.json()["id"]
        self._give_a_document(user)
        with self._client(user) as client:
            for number in range(self._runs_each):
                places = new("input", *(Places.model_fields.keys() - {"barrier", "runs", "error"}))
                places |= new("error") if number == self._runs_each - 1 else {}
                all_runs = len(self.users) * self._runs_each
                meeting = {"barrier": str(self._folder), "runs": all_runs} if self._folder else {}
                run = client.submit(
                    "spy", {**places, **meeting}, thread_id=self.threads[user], metadata=new("run metadata"),
                    idempotency_key=self.canaries.make(user, "key"),
                )  # fmt: skip
                self.runs[user].append(run["id"])
                self.artifacts[user][run["id"]] = places["artifact_name"]

    def _give_a_document(self, user: str) -> None:
        name = self.documents[user] = self.canaries.make(user, "document name")
        with self._client(user) as client:
            client.put_document(name, self.canaries.make(user, "document"))
        with self.fleet.services.database.user_session(user) as session:  # as a run of `research` does
            words = {"heading": self.canaries.make(user, "passage"), "text": self.canaries.make(user, "passage")}
            session.add(Passage(user_id=user, document=name, number=1, sha256="", start_char=0,
                                end_char=1, **words))  # fmt: skip

    def _wait(self, user: str) -> None:
        """Waits for the ends of all runs, then comes back to the last of the stream, which is at hand in memory."""
        with self._client(user) as client:
            for run_id in self.runs[user]:
                run = client.wait(run_id, ENDED_S * self._runs_each)
                assert run["status"] in ENDS, run
        with self._watching_stream(user, "resumed", max(0, self._heads.get(user, 0) - AT_HAND)):
            few = min(self._runs_each, 5)
            wait_until(lambda: self.ends[user, "websocket resumed"] >= few, self.patience_s)

    @contextmanager
    def _watching_stream(self, user: str, name: str, after: int | None) -> Iterator[None]:
        """Looks at every frame that the user gets over a WebSocket."""
        headers = {"Authorization": f"Bearer {self.fleet.token(user)}"}
        url = self._url(user, 1 if name == "replay" else 0).replace("http", "ws", 1) + "/v1/stream"
        with connect(url, additional_headers=headers) as socket:
            socket.send(json.dumps({"t": "hello", "v": 1, "after": after}))

            over = threading.Event()

            def listen() -> None:
                with suppress(ConnectionClosed):
                    for text in socket:
                        self.canaries.see(user, f"websocket {name}", "frame", text)
                        self.ends[user, f"websocket {name}"] += _END.search(str(text)) is not None
                        if name == "live" and (seq := _SEQ.search(str(text))):
                            self._heads[user] = int(seq[1])
                        if '"t":"ping"' in str(text):
                            socket.send('{"t":"pong"}')
                if not over.is_set():
                    self.unexpected.append(f"the stream {name} of {user} was closed: {socket.close_code}")

            listener = threading.Thread(target=listen)
            listener.start()
            try:
                yield
            finally:
                over.set()
                socket.close()
                listener.join()

    def _everybody_saw_the_ends(self) -> bool:
        ways = ("websocket live", "websocket replay")
        return all(self.ends[user, way] >= self._runs_each for user in self.users for way in ways)

    def _url(self, user: str, offset: int = 0) -> str:
        return self._urls[(self.users.index(user) + offset) % len(self._urls)]

    def _read_rest(self, user: str) -> None:
        """Asks for everything that can be got: the user's own, and what the next user has."""
        with self._http(user) as http:
            self._read_own(user, http)
            self._read_of_another(user, http)

    def _http(self, user: str) -> httpx.Client:
        headers = {"Authorization": f"Bearer {self.fleet.token(user)}"}
        return plain.client(base_url=self._url(user), headers=headers, timeout=ENDED_S)

    def _client(self, user: str) -> Client:
        return Client(self._url(user), self.fleet.token(user), timeout_s=ENDED_S, retry_s=ENDED_S)

    def _read_own(self, user: str, http: httpx.Client) -> None:
        for template in self._readable(http):
            expected = 403 if template.startswith("/v1/admin/") else 200
            for path in self._paths(template, user):
                answer = http.get(path, params={"timeout_s": 0} if path.endswith("/wait") else None)
                if answer.status_code != expected:
                    self.unexpected.append(f"{path}: {answer.text}")
                self.canaries.see(user, "rest", path, answer.content)
                if path.endswith("/events"):
                    self._read_report(user, path, answer)
        for filters in ({"thread_id": self.threads[user]}, {"limit": "200"}, {"agent": "spy"}):
            self.canaries.see(user, "rest", f"/v1/runs?{filters}", http.get("/v1/runs", params=filters).content)

    def _read_of_another(self, user: str, http: httpx.Client) -> None:
        other = self.users[(self.users.index(user) + 1) % len(self.users)]

        def ask(method: str, path: str, body: Any = None) -> None:
            answer = http.request(method, path, json=body)
            self.canaries.see(user, "rest", f"{method} {path} of another", answer.content)
            is_json = answer.is_error and "json" in answer.headers["Content-Type"]
            self.answers_about_others.add((answer.status_code, answer.json()["code"] if is_json else ""))

        for template in self._readable(http):
            if "{" in template and not template.startswith(("/v1/admin/", "/console/")):
                for path in self._paths(template, other)[-ASKED_FOR:]:
                    ask("GET", path)
        for run_id in self.runs[other][-ASKED_FOR:]:
            for verb in ("cancel", "retry"):
                ask("POST", f"/v1/runs/{run_id}/{verb}")
        ask("DELETE", f"/v1/threads/{self.threads[other]}")
        ask("POST", "/v1/runs", {"agent": "talk", "input": {"text": ""}, "thread_id": self.threads[other]})
        filters = {"thread_id": self.threads[other]}
        self.canaries.see(user, "rest", f"/v1/runs?{filters}", http.get("/v1/runs", params=filters).content)

    @staticmethod
    def _readable(http: httpx.Client) -> list[str]:
        paths = http.get("/openapi.json").json()["paths"]
        return [template for template, methods in paths.items() if "get" in methods]

    def _read_report(self, user: str, path: str, events: httpx.Response) -> None:
        """Takes what a sandbox found in itself."""
        items = events.json().get("items", []) if events.is_success else []
        thoughts = [event["data"]["text"] for event in items if event["type"] == "agent_thinking"]
        for report in (json.loads(text) for text in thoughts if text.startswith("{")):
            links = [link for link in report.pop("links") if link.startswith("socket:")]
            if len(links) != LINKS:
                self.canaries.note(Leak("sandbox links", path, user, NOBODY, f"{len(links)} sockets"))
            for name, words in report.items():
                self.canaries.see(user, f"sandbox {name}", path, " ".join(words))
            self.reports.add(path)

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
                    self.canaries.see(user, "database", table, value)

    @contextmanager
    def _watching_redis(self) -> Iterator[None]:
        """Looks at every command that reaches Redis, from whomever: publications and the broker's messages too."""
        client = self.fleet.admin_redis()
        with client.monitor() as monitor:  # type: ignore[no-untyped-call]
            done = threading.Event()

            def listen() -> None:
                while not done.is_set():
                    command = str(monitor.next_command()["command"])
                    self.canaries.see(self._owner_of(command), "redis", command.split(maxsplit=1)[0], command)

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
                self.canaries.see(self._owner_of(key), "redis", key, f"{key} {client.get(key)!s}")

    def _read_what_is_nobodys(self) -> None:
        """Reads the logs, and what administrators can read: neither is to hold what users wrote."""
        for name, text in self.fleet.logs().items():
            self.canaries.see(NOBODY, "log", name, text)
        headers = {"Authorization": f"Bearer {self.fleet.token('overseer', 'admin')}"}
        with plain.client(base_url=self.fleet.url, headers=headers, timeout=60) as http:
            for path in ("/v1/admin/audit", "/v1/admin/slots", *(f"/v1/admin/users/{u}/limits" for u in self.users)):
                self.canaries.see(NOBODY, "admin", path, http.get(path).content)

    def _owner_of(self, text: str) -> str:
        """Returns whose key or channel a command names; NOBODY if no user's, or several users'."""
        named = {self._prefixes.get(prefix, NOBODY) for prefix in _PREFIX.findall(text)}
        return named.pop() if len(named) == 1 else NOBODY
