"""REST by its own OpenAPI document (schemathesis), and requests that are hardly HTTP any more."""

from __future__ import annotations

import json
import math
import socket
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import parse_qs, urlsplit

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis import GenerationMode
from schemathesis.checks import CHECKS

from shared.catalogue import beat
from shared.outcomes import Failed
from tests.api_process import Server
from tests.fuzz.mutation import Mutator
from tests.fuzz.tally import ACCEPTED, Tally
from tests.integration.api.conftest import Fleet

TIMEOUT_S = 10.0
TOO_LONG = 414
LONG = 4000  # of an address, with which the first line of a request is at gunicorn's limit
VICTIMS = 8
# Right by the schema is not all: the agent must exist, a document's name must be one, a ticket needs nothing.
LEFT_OUT = ("positive_data_acceptance",)
SHARES = {"both": 0.55, "user": 0.35, "nobody": 0.1}
WAITING = ("/wait", "/v1/admin/users/{user_id}")


def make_known(fleet: Fleet, user_id: str) -> dict[str, list[str]]:
    """Makes things of a user's, for paths that lead somewhere; returns their names by the parameter of the path."""
    with fleet.server.client(user_id) as client:
        threads = [client.post("/v1/threads", json={"title": "x"}).json()["id"] for _ in range(20)]
        names = [f"{number} ü.txt" for number in range(20)]
        for name in names:
            assert client.put(f"/v1/documents/{name}", content=b"x").is_success
    runs = [fleet.server.submit(user_id, thread_id=threads[0]) for _ in range(4)]
    run = fleet.worker.start(user_id, runs[0])
    fleet.worker.say(run, *"abc")
    fleet.worker.finish(run, Failed("oops", "it failed"))
    victims = [f"victim-{number}" for number in range(VICTIMS)]
    return {
        "run_id": runs, "thread_id": threads, "name": names, "user_id": victims, "number": ["1"],
        "file_name": ["main.js"],
    }  # fmt: skip


def fuzz_rest(tally: Tally, fleet: Fleet, document: dict[str, Any], of_seed: int, wanted: int) -> None:
    """Makes at least so many requests: every operation, sound and unsound, for three kinds of callers."""
    schema = schemathesis.openapi.from_dict(document)
    operations: list[Any] = [cast("Any", found).ok() for found in schema.get_all_operations()]
    for caller, share in SHARES.items():
        user_id = f"fuzz-{caller}-{of_seed}"
        token = fleet.server.token(user_id, scopes=("runs", "admin") if caller == "both" else ("runs",))
        headers = {} if caller == "nobody" else {"Authorization": f"Bearer {token}"}
        examples = math.ceil(wanted * share / len(operations))
        with requests.Session() as session:
            known = make_known(fleet, user_id)
            asker = Asker(tally, f"rest.{caller}", session, headers, fleet.server.url, known)
            for number, operation in enumerate(operations):
                with fleet.services.database.system_session() as worker:
                    beat(worker, fleet.worker.id)
                asker.ask_often(operation, examples, of_seed * 1000 + number)


@dataclass(frozen=True)
class Asker:
    """A caller who tries operations.

    Args:
        kind: under which the requests are counted.
        known: names of things that are there, by the parameter of a path.
    """

    tally: Tally
    kind: str
    session: requests.Session
    headers: dict[str, str]
    url: str
    known: dict[str, list[str]]

    def ask_often(self, operation: Any, examples: int, number: int) -> None:
        """Tries one operation with inputs that the number decides, until one has an answer that must not be."""
        cases = st.one_of(*(operation.as_strategy(generation_mode=mode) for mode in GenerationMode))

        @seed(number)
        @settings(max_examples=examples, deadline=None, database=None, phases=(Phase.generate,),
                  suppress_health_check=list(HealthCheck), report_multiple_bugs=False)  # fmt: skip
        @given(case=cases, place=st.integers(0, 39), is_known=st.booleans())
        def run(case: Any, place: int, *, is_known: bool) -> None:
            headers = dict(case.headers or {})
            if is_known:
                found = {name: self.known[name][place % len(self.known[name])] for name in case.path_parameters or ()}
                case.path_parameters = found
            if place % 4:  # else with a token that is made up, if it is
                case.headers = {name: value for name, value in headers.items() if name.lower() != "authorization"}
            self._ask(case, as_made=not is_known and len(case.headers or ()) == len(headers))

        try:
            run()
        except (Exception, BaseExceptionGroup) as error:  # noqa: BLE001 - that is what is looked for
            parts = [str(one) for one in getattr(error, "exceptions", ())]
            self.tally.find(self.kind, f"{operation.method} {operation.path}: {error!r}", parts)

    def _ask(self, case: Any, *, as_made: bool) -> None:
        if case.path.endswith(WAITING) and _is_time((case.query or {}).get("timeout_s", "30")):
            case.query = {**(case.query or {}), "timeout_s": "0"}  # nobody works here: it would wait in vain
        answer = case.call(self.url, self.session, self.headers, timeout=TIMEOUT_S)
        status = answer.status_code
        self.tally.count(self.kind, f"{ACCEPTED} {status}" if status < 400 else str(status))
        if status == TOO_LONG and len(answer.request.path_url) > LONG:
            return  # refused before there is a route, so no route's description says it
        # What was changed, or an empty list that no address has a way to say, may have been all that was to be wrong.
        sent = parse_qs(urlsplit(answer.request.url).query, keep_blank_values=True)
        left_out = (
            LEFT_OUT if as_made and sent.keys() >= (case.query or {}).keys() else (*LEFT_OUT, "negative_data_rejection")
        )
        excluded: list[Any] = [CHECKS.get_one(name) for name in left_out]
        case.validate_response(answer, excluded_checks=excluded, headers=self.headers)


def _is_time(value: Any) -> bool:
    try:
        return 0 <= float(value) <= 60
    except (TypeError, ValueError):
        return False


def fuzz_http(tally: Tally, server: Server, of_seed: int, wanted: int) -> None:
    """Sends so many requests byte by byte, changed anywhere; each is answered, or the connection ends, in time."""
    mutator, host = Mutator(f"http {of_seed}"), server.url.removeprefix("http://")
    for _ in range(wanted):
        sent = _odd_request(mutator, host, server.token(f"fuzz-http-{of_seed}"))
        try:
            line = _first_line(host, sent)
        except TimeoutError:
            tally.find("http", f"no answer within {TIMEOUT_S:g} s", sent)
            continue
        status = line.split(b" ")[1:2]
        end = status[0].decode("latin-1") if status else "closed"
        tally.count("http", f"{ACCEPTED} {end}" if end.startswith("2") else end)
        if end.startswith("5") or (status and not line.startswith(b"HTTP/1.")):
            tally.find("http", end, sent)


def _first_line(host: str, sent: bytes) -> bytes:
    """Returns the first line of the answer, nothing if the connection ended without one."""
    address, port = host.split(":")
    with socket.create_connection((address, int(port)), timeout=TIMEOUT_S) as raw, raw.makefile("rb") as file:
        try:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
        except OSError as error:
            if isinstance(error, TimeoutError):
                raise
        try:
            return file.readline(1000)
        except ConnectionError:
            return b""


def _odd_request(mutator: Mutator, host: str, token: str) -> bytes:
    body = json.dumps({"agent": "echo", "input": {"text": "x"}}).encode()
    method, path = mutator.chance.choice(
        (("GET", "/v1/me"), ("POST", "/v1/runs"), ("PUT", "/v1/documents/x"), ("GET", "/v1/runs"))
    )
    body = body if method != "GET" else b""
    headers = {
        "Host": host, "Authorization": f"Bearer {token}", "Content-Type": "application/json", "Accept": "*/*",
        "Content-Length": str(len(body)), "Idempotency-Key": "k",
    }  # fmt: skip
    if mutator.maybe(0.1):
        return mutator.bytes(_written(method, path, headers, body))
    for _ in range(mutator.chance.choice((0, 1, 1, 2))):
        name = mutator.chance.choice(
            [*headers, "Transfer-Encoding", "Cookie", "Range", "X-Forwarded-For", "Expect", "Connection"]
        )
        odd = mutator.chance.choice(
            ("chunked", "-1", "0", "1e3", "99999999", "\xff", "a\0b", "x" * 9000, "", "utf-16", "100-continue")
        )
        headers[name] = mutator.chance.choice((odd, odd, mutator.characters(headers.get(name, "x") or "x")))
    if mutator.maybe(0.2):
        path = mutator.characters(path)
    if mutator.maybe(0.1):
        path += mutator.chance.choice(
            ("?limit=%FF", "?cursor=" + "x" * 9000, "?%00=1", "/%2e%2e/%00", "#x", "?" + "a=1&" * 3000)
        )
    if mutator.maybe(0.1):
        headers |= {f"X-{number}": "y" * 70 for number in range(mutator.chance.choice((90, 150)))}
    if mutator.maybe(0.2):
        body = mutator.bytes(body or b"x")
    return _written(method, path, headers, body)


def _written(method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
    head = "\r\n".join([f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items()), "", ""])
    return head.encode("utf-8", "surrogatepass") + body


def is_healthy(server: Server) -> bool:
    """Tells whether the api does, in a second, what it is there for."""
    with server.client("healthy") as client:
        asked = [client.get("/readyz"), client.get("/v1/me"), client.post("/v1/threads")]
    return [answer.status_code for answer in asked] == [httpx.codes.OK, httpx.codes.OK, httpx.codes.CREATED]
