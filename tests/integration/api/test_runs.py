from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from api.state import EXTENSION
from shared.outcomes import Failed, Lost
from shared.slots import member
from tests.api_process import ECHO, FakeWorker, announce_worker
from tests.integration.api.conftest import Fleet, Home, UserClient

Body = dict[str, Any]


class TestSubmit:
    def test_it_is_stored_and_answered_with_the_run(self, alice: UserClient, worker: FakeWorker, body: Body) -> None:
        answer = alice.post("/v1/runs", json={**body, "metadata": {"ü": [1, None]}})
        assert answer.status_code == 202, answer.text
        run = answer.json()
        assert answer.headers["Location"] == f"/v1/runs/{run['id']}"
        assert run["queue"] == {"position": 0, "reason": "fleet_busy", "eta_s": None}
        assert run["correlation_id"] == answer.headers["X-Correlation-ID"]
        assert alice.get(answer.headers["Location"]).json() == run
        assert run == {
            "id": run["id"], "agent": "echo", "status": "queued", "thread_id": run["thread_id"],
            "input": body["input"], "output": None, "error": None, "attempt": 0, "last_run_seq": 1,
            "usage": None, "retry_of": None,
            "progress": {"fraction": 0.0, "note": ""}, "queue": run["queue"], "metadata": {"ü": [1, None]},
            "correlation_id": run["correlation_id"], "created_at": run["created_at"],
            "started_at": None, "finished_at": None,
        }  # fmt: skip
        assert alice.get(f"/v1/threads/{run['thread_id']}").status_code == 200
        assert worker

    def test_a_run_that_somebody_else_starts_meanwhile_is_not_said_to_wait(
        self, apart: Home, body: Body, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        dispatcher = apart.app.extensions[EXTENSION].services.dispatcher
        start = dispatcher.start

        def late(user_id: str) -> list[str]:
            assert start(user_id)  # as the leader's sweep does
            return list(start(user_id))

        monkeypatch.setattr(dispatcher, "start", late)
        with apart.client("alice") as alice:
            queue = alice.post("/v1/runs", json=body).json()["queue"]
        assert queue == {"position": 0, "reason": "fleet_busy", "eta_s": None}

    def test_it_goes_to_the_broker_signed(self, apart: Home, body: Body) -> None:
        with apart.client("alice") as alice:
            run_id = alice.post("/v1/runs", json=body).json()["id"]
        with apart.services.celery.connection_for_read() as connection:
            message = connection.SimpleQueue("default").get(timeout=5)
        assert message.headers["id"] == f"{run_id}:1"
        assert body["input"]["text"] not in str(message.body)

    @pytest.mark.parametrize(("leases", "status"), [(2, 503), (5, 422)])
    def test_an_agent_whose_workers_fell_silent_may_come_back(
        self, apart: Home, body: Body, leases: int, status: int
    ) -> None:
        apart.superuser.execute(
            sa.text("UPDATE lanewise.workers SET heartbeat_at = now() - make_interval(secs => :age)"),
            {"age": leases * apart.settings.lease_s},
        )
        with apart.client("alice") as alice:
            answer = alice.post("/v1/runs", json=body)
        assert answer.status_code == status, answer.text
        assert ("Retry-After" in answer.headers) == (status == 503)

    @pytest.mark.parametrize(
        ("change", "status", "code", "field"),
        [
            ({"agent": "nobody"}, 422, "unknown_agent", "agent"),
            ({"agent": "\0"}, 422, "unknown_agent", "agent"),
            ({"agent": 7}, 422, "invalid", "agent"),
            ({"input": {}}, 422, "invalid", "input.text"),
            ({"input": {"text": 7}}, 422, "invalid", "input.text"),
            ({"input": {"text": "x", "times": 0}}, 422, "invalid", "input.times"),
            ({"input": {"text": "x", "more": 1}}, 422, "invalid", "input"),
            ({"input": None}, 422, "invalid", "input"),
            ({"input": {"text": "a\0b"}}, 422, "invalid", "input"),
            ({"metadata": []}, 422, "invalid", "metadata"),
            ({"metadata": {"\0": 1}}, 422, "invalid", "metadata"),
            ({"time_limit_s": 0}, 422, "invalid", "time_limit_s"),
            ({"time_limit_s": -1}, 422, "invalid", "time_limit_s"),
            ({"time_limit_s": "60"}, 422, "invalid", "time_limit_s"),
            ({"time_limit_s": True}, 422, "invalid", "time_limit_s"),
            ({"time_limit_s": 10**400}, 422, "invalid", "time_limit_s"),
            ({"time_limit_s": 3601}, 422, "invalid", "time_limit_s"),
            ({"user_id": "bob"}, 422, "invalid", "user_id"),
            ({"thread_id": 7}, 422, "invalid", "thread_id"),
            ({"thread_id": "0" * 32}, 404, "not_found", None),
            ({"thread_id": "\0"}, 404, "not_found", None),
            ({"input": {"text": "x" * 256 * 1024}}, 413, "too_large", None),
            ({"metadata": {"x": "x" * 16 * 1024}}, 413, "too_large", None),
        ],
    )
    def test_what_is_wrong_is_named(  # noqa: PLR0913, PLR0917 - a table
        self,
        alice: UserClient,
        worker: FakeWorker,
        body: Body,
        change: Body,
        status: int,
        code: str,
        field: str | None,
    ) -> None:
        answer = alice.post("/v1/runs", json=body | change)
        assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
        assert answer.headers["Content-Type"] == "application/problem+json"
        if field is not None:
            assert [item["field"] for item in answer.json()["errors"]] == [field]
        assert alice.get("/v1/runs").json()["items"] == []
        assert worker

    def test_a_misspelt_agent_is_told_the_nearest(self, alice: UserClient, worker: FakeWorker, body: Body) -> None:
        answer = alice.post("/v1/runs", json=body | {"agent": "ecko"})
        assert answer.json()["detail"] == "no running worker has an agent 'ecko'; did you mean 'echo'?"

    def test_every_missing_field_is_named(self, alice: UserClient, worker: FakeWorker) -> None:
        answer = alice.post("/v1/runs", json={})
        assert [item["field"] for item in answer.json()["errors"]] == ["agent", "input"]
        schema = {"type": "object", "required": ["a", "it's", 'say "x"'], "properties": {}}
        announce_worker(worker.services, {**ECHO, "name": "three", "input_schema": schema}, worker_id="worker-three")
        answer = alice.post("/v1/runs", json={"agent": "three", "input": {}})
        assert [item["field"] for item in answer.json()["errors"]] == ["input.a", "input.it's", 'input.say "x"']

    def test_input_just_below_its_limit(self, alice: UserClient, worker: FakeWorker) -> None:
        text = "ü" * ((256 * 1024 - len('{"text":""}')) // 2)
        assert alice.post("/v1/runs", json={"agent": "echo", "input": {"text": text}}).status_code == 202
        assert alice.post("/v1/runs", json={"agent": "echo", "input": {"text": text + "ü"}}).status_code == 413
        assert worker

    def test_a_new_agent_is_found_at_once(self, alice: UserClient, worker: FakeWorker) -> None:
        assert alice.post("/v1/runs", json={"agent": "late", "input": {}}).status_code == 422
        announce_worker(worker.services, {**ECHO, "name": "late", "input_schema": {}}, worker_id="worker-late")
        threading.Event().wait(0.06)  # a flood of unknown names is not looked up again and again
        assert alice.post("/v1/runs", json={"agent": "late", "input": {}}).status_code == 202

    def test_the_time_limit_is_the_agents_unless_asked(
        self, alice: UserClient, worker: FakeWorker, body: Body, superuser: sa.Connection
    ) -> None:
        for asked in ({}, {"time_limit_s": 0.5}, {"time_limit_s": 3600}):
            assert alice.post("/v1/runs", json=body | asked).status_code == 202
        query = sa.text("SELECT time_limit_s FROM lanewise.runs WHERE user_id = :user ORDER BY id")
        limits = superuser.scalars(query, {"user": alice.user_id}).all()
        assert limits == [60, 0.5, 3600]
        assert worker

    def test_a_user_without_room_is_told_when_to_come_back(
        self, alice: UserClient, bob: UserClient, worker: FakeWorker, body: Body, superuser: sa.Connection
    ) -> None:
        _limit(superuser, alice, 1, 2)
        statuses = [alice.post("/v1/runs", json=body, headers={"Idempotency-Key": str(n)}) for n in range(4)]
        assert [answer.status_code for answer in statuses] == [202, 202, 429, 429]
        assert statuses[2].json()["code"] == "quota_exceeded"
        assert int(statuses[2].headers["Retry-After"]) >= 1
        assert bob.post("/v1/runs", json=body).status_code == 202
        first = statuses[0].json()["id"]
        assert alice.post("/v1/runs", json=body, headers={"Idempotency-Key": "0"}).json()["id"] == first
        alice.post(f"/v1/runs/{first}/cancel")
        assert alice.post("/v1/runs", json=body, headers={"Idempotency-Key": "2"}).status_code == 202
        assert worker

    def test_it_is_audited(self, alice: UserClient, worker: FakeWorker, body: Body, superuser: sa.Connection) -> None:
        run = alice.post("/v1/runs", json=body).json()
        alice.post(f"/v1/runs/{run['id']}/cancel")
        query = sa.text(
            "SELECT actor, action, object, correlation_id FROM lanewise.audit_log WHERE user_id = :user ORDER BY id"
        )
        rows = superuser.execute(query, {"user": alice.user_id})
        assert rows.all() == [
            (f"user:{alice.user_id}", "run.submit", run["id"], run["correlation_id"]),
            (f"user:{alice.user_id}", "run.end", run["id"], run["correlation_id"]),
        ]
        assert worker


class TestIdempotency:
    def test_the_same_key_is_the_same_run(
        self, alice: UserClient, bob: UserClient, worker: FakeWorker, body: Body
    ) -> None:
        key = {"Idempotency-Key": "k 1"}
        first = alice.post("/v1/runs", json=body, headers=key)
        again = alice.post("/v1/runs", json=dict(reversed(body.items())), headers=key)
        assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
        assert again.headers["Location"] == first.headers["Location"]
        other = alice.post("/v1/runs", json={**body, "metadata": {"x": 1}}, headers=key)
        assert (other.status_code, other.json()["code"]) == (422, "idempotency_key_reused")
        assert bob.post("/v1/runs", json=body, headers=key).json()["id"] != first.json()["id"]
        assert worker

    def test_a_key_answers_though_its_agent_is_gone(self, apart: Home, body: Body) -> None:
        with apart.client("alice") as alice:
            first = alice.post("/v1/runs", json=body, headers={"Idempotency-Key": "k"})
            apart.superuser.execute(sa.text("DELETE FROM lanewise.workers"))
            threading.Event().wait(1.1)  # as long as the catalogue is remembered
            assert alice.post("/v1/runs", json=body).status_code == 422
            again = alice.post("/v1/runs", json=body, headers={"Idempotency-Key": "k"})
            assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
            assert again.json()["queue"]["reason"] == "no_worker"

    @pytest.mark.parametrize("key", ["", "x" * 256, "a\tb"])
    def test_a_key_that_cannot_be_one(self, alice: UserClient, worker: FakeWorker, body: Body, key: str) -> None:
        answer = alice.post("/v1/runs", json=body, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
        assert worker

    @pytest.mark.parametrize(
        ("quoted", "bare"), [('"k"', "k"), (' "k" ', "k"), ('"a \\"b\\" \\\\"', 'a "b" \\'), ('a"b', 'a"b')]
    )
    def test_a_quoted_key_is_the_bare_one(
        self, alice: UserClient, worker: FakeWorker, body: Body, quoted: str, bare: str
    ) -> None:
        ids = [
            alice.post("/v1/runs", json=body, headers={"Idempotency-Key": key}).json()["id"] for key in (quoted, bare)
        ]
        assert ids[0] == ids[1]
        assert worker

    @pytest.mark.parametrize(
        "key", ['"', '"a', '"a"b"', '"a" "b"', '"a\\"', '"\\n"', '"a"; p=1', '""', f'"{"x" * 256}"']
    )
    def test_a_malformed_string_is_no_key(self, alice: UserClient, worker: FakeWorker, body: Body, key: str) -> None:
        answer = alice.post("/v1/runs", json=body, headers={"Idempotency-Key": key})
        assert (answer.status_code, answer.json()["errors"][0]["field"]) == (422, "Idempotency-Key")
        assert worker

    def test_identical_posts_at_once_make_one_run(self, fleet: Fleet, user: str, body: Body) -> None:
        def post(_number: int) -> httpx.Response:
            with fleet.server.client(user) as client:
                return client.post("/v1/runs", json=body, headers={"Idempotency-Key": "k"})

        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(post, range(24)))
        assert {answer.status_code for answer in answers} <= {202, 409}
        assert len({answer.json()["id"] for answer in answers if answer.status_code == 202}) == 1
        assert all("Retry-After" in answer.headers for answer in answers if answer.status_code == 409)
        with fleet.server.client(user) as client:
            assert len(client.get("/v1/runs").json()["items"]) == 1

    def test_in_flight_is_409(self, alice: UserClient, worker: FakeWorker, body: Body) -> None:
        with worker.services.database.user_session(alice.user_id) as session:
            session.execute(
                sa.text("SELECT pg_advisory_xact_lock(hashtextextended('k', hashtextextended(:user, 0)))"),
                {"user": alice.user_id},
            )
            answer = alice.post("/v1/runs", json=body, headers={"Idempotency-Key": "k"})
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert alice.post("/v1/runs", json=body, headers={"Idempotency-Key": "k"}).status_code == 202


class TestRead:
    def test_where_a_queued_run_stands(
        self, alice: UserClient, worker: FakeWorker, body: Body, superuser: sa.Connection
    ) -> None:
        _limit(superuser, alice, 1, None)
        answers = [alice.post("/v1/runs", json=body).json() for _ in range(4)]
        expected = [(0, "fleet_busy"), (1, "user_limit"), (2, "user_limit"), (3, "user_limit")]
        assert [(run["queue"]["position"], run["queue"]["reason"]) for run in answers] == expected
        listed = alice.get("/v1/runs").json()["items"][::-1]
        assert [(run["queue"]["position"], run["queue"]["reason"]) for run in listed] == expected
        run = worker.start(alice.user_id, answers[0]["id"])
        assert alice.get(f"/v1/runs/{run.id}").json()["queue"] is None
        worker.finish(run, Lost("worker_lost", "gone"))
        again = alice.get(f"/v1/runs/{run.id}").json()
        assert (again["status"], again["queue"]["reason"]) == ("queued", "recovering")

    def test_a_failed_run_says_why(self, alice: UserClient, worker: FakeWorker, body: Body) -> None:
        run = worker.start(alice.user_id, alice.post("/v1/runs", json=body).json()["id"])
        worker.finish(run, Failed("ValueError", "bad input"))
        view = alice.get(f"/v1/runs/{run.id}").json()
        assert view["error"] == {"type": "ValueError", "message": "bad input", "attempt": 1, "retryable": False}

    def test_lists_page_newest_first_and_filter(self, alice: UserClient, worker: FakeWorker, body: Body) -> None:
        thread = alice.post("/v1/threads").json()["id"]
        made = [alice.post("/v1/runs", json={**body, "thread_id": thread}).json()["id"] for _ in range(5)]
        worker.finish(worker.start(alice.user_id, made[0]))
        other = alice.post("/v1/runs", json=body).json()["id"]
        assert _pages(alice, "/v1/runs", limit=2) == [[other, made[4]], [made[3], made[2]], [made[1], made[0]]]
        assert _pages(alice, "/v1/runs", limit=2, thread_id=thread) == [made[:2:-1], made[2:0:-1], [made[0]]]
        assert _pages(alice, "/v1/runs", status="completed") == [[made[0]]]
        assert _pages(alice, "/v1/runs", agent="echo", limit=200) == [[other, *made[::-1]]]
        for nothing in ({"agent": "other"}, {"status": "failed"}, {"thread_id": "x"}):
            assert _pages(alice, "/v1/runs", **nothing) == [[]]

    def test_a_page_ends_early_before_it_grows_too_big(self, alice: UserClient, worker: FakeWorker) -> None:
        big = {"agent": "echo", "input": {"text": "x" * 250_000}}
        made = [alice.post("/v1/runs", json=big).json()["id"] for _ in range(40)]
        pages = _pages(alice, "/v1/runs", limit=200)
        assert [run for page in pages for run in page] == made[::-1]
        assert [len(page) for page in pages] == [34, 6]
        assert worker

    @pytest.mark.parametrize(
        ("query", "status"),
        [
            ("limit=0", 422), ("limit=201", 422), ("limit=x", 422), ("limit=1&limit=2", 422), ("limit=", 422),
            ("status=nope", 422), ("unknown=1", 422), ("agent=%00", 422), ("cursor=", 400), ("cursor=x", 400),
            ("cursor=eA", 400), ("cursor=%FF", 400), ("cursor=AAAA", 400), ("cursor=" + "A" * 5000, 400),
            ("limit=" + "9" * 5000, 422),
        ],
    )  # fmt: skip
    def test_odd_queries(self, alice: UserClient, query: str, status: int) -> None:
        assert alice.get(f"/v1/runs?{query}").status_code == status

    def test_events_page(self, alice: UserClient, worker: FakeWorker, body: Body) -> None:
        run = worker.start(alice.user_id, alice.post("/v1/runs", json=body).json()["id"])
        worker.say(run, *"abc")
        path = f"/v1/runs/{run.id}/events"
        everything = alice.get(path).json()
        assert [event["run_seq"] for event in everything["items"]] == [1, 2, 3, 4, 5]
        assert everything["next_cursor"] is None
        page = alice.get(path, params={"limit": 2}).json()
        rest = alice.get(path, params={"limit": 3, "cursor": page["next_cursor"]}).json()
        assert page["items"] + rest["items"] == everything["items"]
        assert rest["next_cursor"] is None
        assert alice.get(path, params={"after": 4}).json()["items"] == everything["items"][4:]
        assert alice.get(path, params={"after": 2**31 - 1}).json()["items"] == []
        for odd, status in (("after=-1", 422), (f"after={2**31}", 422), ("after=x", 422), ("cursor=x", 400)):
            assert alice.get(f"{path}?{odd}").status_code == status

    @pytest.mark.parametrize("timeout", ["nan", "inf", "-1", "61", "x", "", "1e999"])
    def test_odd_waits(self, alice: UserClient, timeout: str) -> None:
        assert alice.get(f"/v1/runs/{'0' * 32}/wait?timeout_s={timeout}").status_code == 422

    def test_wait_returns_at_once_what_has_ended(self, alice: UserClient, worker: FakeWorker, body: Body) -> None:
        run = worker.start(alice.user_id, alice.post("/v1/runs", json=body).json()["id"])
        assert alice.get(f"/v1/runs/{run.id}/wait?timeout_s=0").json()["status"] == "running"
        worker.finish(run)
        assert alice.get(f"/v1/runs/{run.id}/wait").json()["output"] == {"said": "done"}


class TestCancel:
    def test_a_queued_run_ends_and_the_next_takes_its_slot(
        self, alice: UserClient, worker: FakeWorker, body: Body, superuser: sa.Connection
    ) -> None:
        _limit(superuser, alice, 1, None)
        first, second = (alice.post("/v1/runs", json=body).json()["id"] for _ in range(2))
        answer = alice.post(f"/v1/runs/{first}/cancel")
        assert (answer.status_code, answer.json()["status"]) == (202, "cancelled")
        assert worker.services.slots.held(alice.user_id) == [member(second, 1)]
        assert alice.get(f"/v1/runs/{second}").json()["queue"]["position"] == 0
        again = alice.post(f"/v1/runs/{first}/cancel")
        assert (again.status_code, again.json()) == (200, answer.json())

    def test_a_running_runs_worker_is_told(self, alice: UserClient, worker: FakeWorker, body: Body) -> None:
        run = worker.start(alice.user_id, alice.post("/v1/runs", json=body).json()["id"])
        pubsub = worker.services.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        with pubsub as control:
            control.subscribe(worker.services.keys.control(worker.id))
            control.get_message(timeout=2)
            answer = alice.post(f"/v1/runs/{run.id}/cancel")
            message = control.get_message(timeout=2)
        assert (answer.status_code, answer.json()["status"]) == (202, "running")
        assert message is not None
        assert message["data"] == f'{{"cancel": "{run.id}", "attempt": 1}}'
        with worker.services.database.user_session(alice.user_id) as session:
            assert session.scalar(sa.text("SELECT cancel_requested_at IS NOT NULL FROM runs"))


def _pages(client: httpx.Client, path: str, **params: Any) -> list[list[str]]:
    found: list[list[str]] = []
    cursor: str | None = None
    while cursor is not None or not found:
        answer = client.get(path, params={**params, **({"cursor": cursor} if cursor else {})}).json()
        found.append([item["id"] for item in answer["items"]])
        cursor = answer["next_cursor"]
    return found


def test_tokens_expire(sign_in: Callable[..., httpx.Client]) -> None:
    assert sign_in("alice", ttl_s=-11).get("/v1/me").json()["detail"] == "the token has expired"


def _limit(superuser: sa.Connection, client: UserClient, concurrent: int | None, queued: int | None) -> None:
    values = {"user": client.user_id, "concurrent": concurrent, "queued": queued}
    superuser.execute(sa.text("INSERT INTO lanewise.user_limits VALUES (:user, :concurrent, :queued)"), values)
