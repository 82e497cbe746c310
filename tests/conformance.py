"""What every client of the stream must do: scenarios that play a service, and the log that a client then has.

Each client has a driver of its own that plays all of them: `tests/unit/test_conformance.py` the Python client,
`tests/browser/test_conformance.py` the JavaScript module in a browser.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any, cast

from werkzeug.wrappers import Request, Response

from api.gateway.protocol import encode
from tests.scripted import CUT, WAIT_S, Connection, Script, Service, answer, event, problem, says, welcome

BACK_S = 0.5  # more than a first pause: who comes back for more before this is over has not waited for the consumer
LIVE = {"t": "live", "seq": 0}
RUNS = [{"id": "r1", "status": "running"}]
SNAPSHOT = {"runs": RUNS}

Entry = int | list[Any] | dict[str, Any]


def snapshot(reason: str | None, head: int, runs: list[Any] = RUNS) -> Entry:
    """The log's entry for a snapshot."""
    return [reason, head, runs]


def end(code: int) -> Entry:
    """The log's last entry if the client gave up: a close code, or the HTTP status of a refusal."""
    return {"end": code}


@dataclass(frozen=True)
class Scenario:
    """One conversation.

    Args:
        name: of the test.
        connections: what the service says on each; a Response refuses it, 401 as the gateway does: by a close code, and
            over REST.
        log: what the client must have handed out at the end: the `seq` of events, snapshots, and a final end.
        afters: the `after` of each hello.
        after: where the client begins.
        crash_at: the consumer fails instead of making this entry of the log (from 0), and is started again.
        pauses_s: least and most seconds between a hello, by its number from 1, and the one before.
        states: for clients that tell their states.
    """

    name: str
    connections: list[Script | Response]
    log: list[Entry]
    afters: list[int | None]
    after: int | None = 0
    crash_at: int | None = None
    pauses_s: dict[int, tuple[float, float]] = field(default_factory=dict)
    states: list[str] | None = None


def half_a_frame(connection: Connection) -> None:
    """The cut of a connection in the middle of a frame that can already be told from others."""
    connection.send(welcome(2), event(1))
    frame = encode(event(2))
    connection.send_raw(frame[: len(frame) // 2])
    connection.cut()


def pings(connection: Connection) -> None:
    """A ping that must be answered."""
    connection.send(welcome(0), LIVE, {"t": "ping", "seq": 0})
    assert connection.receive() == {"t": "pong"}
    connection.send(event(1))
    connection.stay()


def _again(name: str, first: Script, states: list[str] | None = None) -> Scenario:
    """After event 1 something happens, and the client comes back for event 2."""
    return Scenario(name, [first, says(welcome(2), event(2), LIVE, event(3))], [1, 2, 3], [0, 1], states=states)


def _resumed(code: int) -> Scenario:
    return _again(f"close-{code}-comes-back", says(welcome(1), event(1), then=code))


def _final(code: int) -> Scenario:
    return Scenario(f"close-{code}-is-final", [says(welcome(1), event(1), then=code)], [1, end(code)], [0])


def _garbage(name: str, *frames: Any) -> Scenario:
    return _again(name, says(welcome(2), event(1), *frames, event(2, "never-accepted")))


SCENARIOS = [
    Scenario(
        "replay-and-live",
        [says(welcome(2), event(1), event(2), LIVE, event(3))],
        [1, 2, 3],
        [0],
        states=["connecting", "replaying", "live", "closed"],
    ),
    Scenario("what-came-before-is-dropped",
             [says(welcome(9), event(6), event(6), event(5), event(7), event(6), event(8))], [6, 7, 8], [5], after=5),
    _again("a-gap-is-asked-for-again", says(welcome(9), event(1), event(3)),
           ["connecting", "replaying", "waiting", "connecting", "replaying", "live", "closed"]),
    *(_resumed(code) for code in (1000, 1001, 1011, 1012, 1013, 4401, 4408, 4410, 4428, 4429)),
    *(_final(code) for code in (4400, 4403, 4409, 1009)),
    _again("a-cut-connection", says(welcome(1), event(1), then=CUT)),
    _again("a-cut-in-the-middle-of-a-frame", half_a_frame),
    Scenario("silence-for-two-pings", [says(welcome(1, ping_s=0.1), event(1)), says(welcome(2), event(2))],
             [1, 2], [0, 1], pauses_s={1: (0.2, 5)}),
    _garbage("no-json", "{not json"),
    _garbage("no-object", "5"),
    _garbage("null", "null"),
    _garbage("no-type", {"no": "t"}),
    _garbage("a-number-that-is-text", {"t": "event", "seq": "2"}),
    Scenario("a-welcome-without-a-head", [says({"t": "welcome"}), says(welcome(1), event(1))], [1], [0, 0]),
    Scenario("frames-of-a-newer-version",
             [says(welcome(1), {"t": "from-the-future", "seq": 7}, event(1), {"t": "later"}, LIVE, event(2))],
             [1, 2], [0]),
    Scenario("a-ping-is-answered", [pings], [1], [0]),
    Scenario("bye-says-when-to-come-back",
             [says(welcome(1), event(1), {"t": "bye", "retry_ms": 400}, then=1012), says(welcome(2), event(2))],
             [1, 2], [0, 1], pauses_s={1: (0.4, 5)}),
    Scenario("no-position-gets-a-snapshot",
             [says(welcome(41, snapshot=SNAPSHOT), LIVE, event(42), then=CUT), says(welcome(43), event(43))],
             [snapshot(None, 41), 42, 43], [None, 42], after=None),
    *(
        Scenario(f"{reason}-gets-a-snapshot",
                 [says(welcome(70, recovered=False, reason=reason, snapshot=SNAPSHOT), LIVE, event(71), then=1012),
                  says(welcome(72), event(72))],
                 [snapshot(reason, 70), 71, 72], [700, 71], after=700)
        for reason in ("trimmed", "ahead")
    ),
    Scenario("trimmed-in-the-middle",
             [says(welcome(2), event(1), event(2), then=4410),
              says(welcome(9, recovered=False, reason="trimmed", snapshot=SNAPSHOT), event(10))],
             [1, 2, snapshot("trimmed", 9), 10], [0, 2]),
    Scenario("the-numbers-went-back",
             [says(welcome(9), event(9), then=CUT),
              says(welcome(3, recovered=False, reason="ahead", snapshot=SNAPSHOT), event(4))],
             [9, snapshot("ahead", 3), 4], [8, 9], after=8),
    Scenario("an-empty-log-from-its-beginning", [says(welcome(0), LIVE, then=CUT), says(welcome(1), event(1))],
             [1], [0, 0]),
    Scenario("an-empty-log-from-now-on",
             [says(welcome(0, snapshot={"runs": []}), LIVE, then=CUT), says(welcome(1), event(1))],
             [snapshot(None, 0, []), 1], [None, 0], after=None),
    Scenario("a-refused-token-is-final", [problem(401, "unauthorized", "the token has expired")], [end(401)], []),
    Scenario("an-expired-token-in-the-middle",
             [says(welcome(1), event(1), then=4401), problem(401, "unauthorized", "the token has expired")],
             [1, end(401)], [0]),
    Scenario("a-forbidden-token-is-final", [problem(403, "forbidden", "no")], [end(403)], []),
    Scenario("a-busy-service-says-when",
             [says(welcome(1), event(1), then=CUT), problem(503, "unavailable", "busy", Retry_After="1"),
              says(welcome(2), event(2))],
             [1, 2], [0, 1], pauses_s={1: (1, 5)}),
    Scenario("a-consumer-that-fails-gets-the-event-again",
             [says(welcome(9), event(1), event(2), event(3)), says(welcome(9), event(2), event(3))],
             [1, 2, 3], [0, 1], crash_at=1),
    Scenario("a-consumer-that-fails-at-a-snapshot-gets-one-again",
             [says(welcome(7, snapshot=SNAPSHOT), event(8)), says(welcome(8, snapshot=SNAPSHOT), event(9))],
             [snapshot(None, 8), 9], [None, None], after=None, crash_at=0),
]  # fmt: skip


@dataclass
class Flood:
    """More than a client may keep for a consumer that stands still: it must stop taking it, and lose nothing.

    The consumer asks for `/flooded` at its first event, which is answered when the client takes no more; by then it
    must not have come back for more.

    Args:
        blocked_s: a client to which nothing could be written for so long takes no more; it is cut off.
    """

    service: Service
    blocked_s: int
    count: int = 400
    stopped: threading.Event = field(default_factory=threading.Event)
    stopped_at: int | None = None  # the first event that could not be written
    back: threading.Event = field(default_factory=threading.Event)  # another connection was made

    def __post_init__(self) -> None:
        self.service.connections = [self._pour] * 20
        self.service.on("GET", "/flooded", self._wait)

    def _pour(self, connection: Connection) -> None:
        if self.stopped.is_set():
            self.back.set()
        connection.send(welcome(self.count))
        connection.limit_writes(self.blocked_s)
        for seq in range(self.service.hellos[-1]["after"] + 1, self.count + 1):
            try:
                connection.send_raw(encode(event(seq, text="x" * 60_000)))
            except OSError:
                self.stopped_at = self.stopped_at or seq
                self.stopped.set()
                return
        self.stopped.set()
        connection.stay()

    def _wait(self, _: Request) -> Response:
        stopped = self.stopped.wait(WAIT_S)
        return answer({"stopped": stopped, "back": self.back.wait(BACK_S)})


def play(service: Service, scenario: Scenario) -> None:
    """Has the service play a scenario."""
    service.connections = list(scenario.connections)


def give_tickets(service: Service) -> None:
    """Has the service give tickets, each another one; they are refused where the next connection would be."""
    tickets = iter(range(1, 1000))

    def ticket(_: Request) -> Response:
        return _refusal(service) or answer({"ticket": f"ticket-{next(tickets)}", "expires_in_s": 30}, 201)

    service.on("POST", "/v1/tickets", ticket)


def know_tokens(service: Service) -> None:
    """Has the service say whose a token is; it is refused where the next connection would be."""
    service.on("GET", "/v1/me", lambda _: _refusal(service) or answer({"user_id": "alice"}))


def _refusal(service: Service) -> Response | None:
    refused = service.connections and isinstance(service.connections[0], Response)
    return cast("Response", service.connections.pop(0)) if refused else None


def judge(service: Service, scenario: Scenario, log: list[Entry]) -> None:
    """Asserts what a client logged, and what it said to the service."""
    assert log == scenario.log, json.dumps(service.hellos)
    assert [hello["after"] for hello in service.hellos] == scenario.afters
    assert {(hello["t"], hello["v"]) for hello in service.hellos} <= {("hello", 1)}
    assert not service.connections, "the client did not come back"
    for number, (least_s, most_s) in scenario.pauses_s.items():
        assert least_s <= service.hello_times[number] - service.hello_times[number - 1] <= most_s
