"""How a user talks to the fleet: patiently, and writing down what comes back."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
from websockets.exceptions import WebSocketException

from lanewise.endpoint import Endpoint
from lanewise.errors import ApiError, GapError, UnreachableError
from lanewise.stream import Event, Stream
from shared.states import ENDS
from tests import plain
from tests.chaos.history import Answer, History, Seen, Sighting

CANARY = re.compile(r"lwcanary[0-9a-f]{32}")
TRACE = "Traceback (most recent call last)"
ANSWER_S = 10.0
RETRY_S, LONGEST_RETRY_S = 0.1, 1.0
EXCERPT = 500
# A client may come again after these; 422 only if the fleet has no worker at the moment, which its text says.
PASSING = {409, 429, 503}


class Client:
    """Calls of one user, each repeated until there is a definite answer.

    Args:
        urls: of the apis, used in turn.
        given_up: tells when the suite is over, so that nothing is tried any more.
    """

    def __init__(self, user: str, token: str, urls: list[str], history: History, given_up: Callable[[], bool]) -> None:
        self._user = user
        self._history = history
        self._given_up = given_up
        headers = {"Authorization": f"Bearer {token}"}
        self._https = [plain.client(base_url=url, headers=headers, timeout=ANSWER_S) for url in urls]
        self._turn = 0

    def close(self) -> None:
        """Closes the connections."""
        for http in self._https:
            http.close()

    def call(self, method: str, path: str, **request: Any) -> httpx.Response | None:
        """Returns the definite answer; None: the suite gave up first."""
        pause_s = RETRY_S
        while not self._given_up():
            self._turn += 1
            try:
                answer = self._https[self._turn % len(self._https)].request(method, path, **request)
            except httpx.HTTPError as error:
                self._history.refusals[type(error).__name__] += 1
            else:
                note(self._history, self._user, f"{method} {path}", answer.text)
                if answer.is_success:
                    return answer
                if answer.status_code >= 500 and answer.status_code != 503:
                    self._strange(method, path, answer)
                elif not _passes(answer):
                    self._strange(method, path, answer)
                    return answer
                self._history.refusals[f"{answer.status_code} {_code(answer)}"] += 1
            time.sleep(pause_s)
            pause_s = min(LONGEST_RETRY_S, 2 * pause_s)
        return None

    def _strange(self, method: str, path: str, answer: httpx.Response) -> None:
        strange = Answer(self._user, f"{method} {path}", answer.status_code, answer.text[:EXCERPT])
        self._history.answers.append(strange)


def _passes(answer: httpx.Response) -> bool:
    return answer.status_code in PASSING or (answer.status_code == 422 and "worker" in answer.text)


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json().get("code"))
    except ValueError:
        return answer.text[:40]


def note(history: History, user: str, where: str, text: str | bytes) -> None:
    """Writes down what a user got: whose canaries are in it, and whether it shows a trace of an error."""
    if isinstance(text, bytes):
        text = text.decode(errors="replace")
    where = re.sub(r"/[0-9a-z-]{20,}", "/…", where)
    history.sightings.update(Sighting(user, canary, where) for canary in set(CANARY.findall(text)))
    if TRACE in text:
        history.answers.append(Answer(user, where, 0, text[:EXCERPT]))


class Listener:
    """One user's stream, by our own client's rule; the raw frames are looked at too.

    Attributes:
        ended: ids of the runs whose last event came.
    """

    def __init__(self, user: str, token: str, url: str, history: History) -> None:
        self.ended: set[str] = set()
        self._user = user
        self._history = history
        self._seen: list[Seen] = []
        history.streams[user] = self._seen
        self._endpoint = Endpoint(url, token, timeout_s=ANSWER_S, retry_s=120)
        self._stream: _Tapped | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._listen, name=f"listener {user}", daemon=True)
        self._thread.start()

    @property
    def last(self) -> int:
        """The cursor."""
        return self._seen[-1].seq if self._seen else 0

    def close(self) -> None:
        """Ends the stream."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()
        self._thread.join(20)

    def _listen(self) -> None:
        while not self._closed:
            self._stream = _Tapped(self._endpoint, self.last, self._tap)
            try:
                for event in self._stream:
                    self._take(event)
            except GapError as gap:
                self._seen.append(Seen(gap.head))
            except (UnreachableError, ApiError, OSError, WebSocketException) as error:
                self._history.refusals[f"stream: {type(error).__name__}"] += 1
            finally:
                self._stream.close()

    def _take(self, event: Event) -> None:
        self._seen.append(Seen(event["seq"], event["run_id"], event["run_seq"], event["type"]))
        state = event["type"].removeprefix("run_")
        if event["type"].startswith("run_") and state in ENDS:
            self._history.ends.add((event["run_id"], state))
            self.ended.add(event["run_id"])

    def _tap(self, text: str | bytes) -> None:
        note(self._history, self._user, "stream", text)


class _Tapped(Stream):
    """A stream whose frames somebody else looks at before they are understood."""

    def __init__(self, endpoint: Endpoint, after: int, tap: Callable[[str | bytes], None]) -> None:
        super().__init__(endpoint, after)
        self._tap = tap

    def _text(self, timeout_s: float) -> str | bytes:
        text = super()._text(timeout_s)
        self._tap(text)
        return text
