"""`lanewise doctor` over real stores: a fleet that is well, and each fault that it must find, with the cure."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest
import sqlalchemy as sa

from lanewise.doctor import local, stores
from lanewise.doctor.examination import examine
from lanewise.doctor.findings import Finding
from lanewise.ports import free_port
from shared import lanes
from shared.models import RUN, SERVICE, Lease
from shared.services import Services
from shared.settings import Settings
from tests.api_process import ECHO, announce_worker
from tests.nodes import age_worker
from tests.services import Servers, Submit, an_agent, slot

LEASE_S = 1.0
Examine = Callable[..., dict[str, list[Finding]]]


@pytest.fixture
def doctor(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Examine:
    """Examines the test's stores, with other settings if they are given: `doctor(REDIS_URL=...)`."""
    assert settings.run_database_url is not None
    values = {
        "DATABASE_URL": settings.database_url.get_secret_value(),
        "RUN_DATABASE_URL": settings.run_database_url.get_secret_value(),
        "REDIS_URL": settings.redis_url.get_secret_value(),
        "SECRET_KEY": "0123456789abcdef0123456789abcdef",
        "DEPLOYMENT": settings.deployment,
        "LEASE_S": str(LEASE_S),
        "SWEEP_S": "0.1",
    }

    def run(**changes: str) -> dict[str, list[Finding]]:
        for name, value in (values | changes).items():
            monkeypatch.setenv(f"LANEWISE_{name}", value)
        found: dict[str, list[Finding]] = {}
        for finding in examine():
            found.setdefault(finding.check, []).append(finding)
        return found

    return run


@pytest.fixture
def well(services: Services, superuser: sa.Connection) -> Services:
    """Stores of a fleet with a worker, which leads; both have time."""
    announce_worker(services)
    age_worker(superuser, "worker-1", -60)
    with services.database.system_session() as session:
        session.add(Lease(name="leader", holder="worker-1", expires_at=sa.func.now() + sa.text("interval '1 minute'")))
    return services


def hold(services: Services, user_id: str, *members: str) -> None:
    services.redis.zadd(services.keys.slots(user_id), dict.fromkeys(members, time.time() + 60))


def ill(found: dict[str, list[Finding]]) -> list[str]:
    return [finding.check for findings in found.values() for finding in findings if finding.status == "failed"]


def the(found: dict[str, list[Finding]], check: str, status: str = "failed") -> Finding:
    """Returns the one finding of a check with this status; whatever is not well says what to do."""
    (finding,) = [finding for finding in found[check] if finding.status == status]
    assert finding.cure or status != "failed"
    return finding


def test_a_fleet_that_is_well(doctor: Examine, well: Services, submit: Submit) -> None:
    run = submit("alice")
    with well.database.user_session("alice") as session:
        lanes.grant(session, "alice", [slot(run)])
    hold(well, "alice", f"{run.id}:1")
    found = doctor()
    of_platform = found.pop("sandboxes")
    assert {finding.status for finding in of_platform} <= {"ok", "warning"}  # what it cannot do
    # The server has databases of other tests as well.
    told = [one for findings in found.values() for one in findings if "connect to the database" not in one.detail]
    assert {finding.status for finding in told} == {"ok"}, found
    assert list(found) == [
        "python", "libraries", "settings", "postgres", "schema", "redis", "broker", "roles", "sandbox role",
        "audit trail", "clocks", "workers", "agents", "leader", "slots", "waiting",
    ]  # fmt: skip
    assert the(found, "slots", "ok").detail == "1 held: 0 runs running, 1 granted"
    assert the(found, "leader", "ok").detail == "worker-1"
    assert "1 granted runs wait" in the(found, "waiting", "ok").detail


# Slots


def test_a_leaked_slot_and_a_missing_one(doctor: Examine, well: Services, submit: Submit) -> None:
    run = submit("alice")
    with well.database.user_session("alice") as session:
        lanes.grant(session, "alice", [slot(run)])
    hold(well, "alice", f"{run.id}:0")
    hold(well, "bob", "gone:1")
    began = time.monotonic()
    leaked, missing = doctor()["slots"]
    assert time.monotonic() - began >= LEASE_S  # whoever has a lease is given that long
    assert leaked.detail.startswith("2 held by no live run: ")
    assert "gone:1" in leaked.detail
    assert missing.detail == f"1 live runs without their slot: {run.id}:1"


def test_a_difference_that_passes_is_none(doctor: Examine, well: Services) -> None:
    hold(well, "bob", "gone:1")
    timer = threading.Timer(LEASE_S / 2, lambda: well.redis.delete(well.keys.slots("bob")))
    timer.start()
    assert the(doctor(), "slots", "ok")
    timer.join()


# Workers


def test_nobody_works(doctor: Examine, services: Services) -> None:
    assert services
    found = doctor()
    assert ill(found) == ["workers", "leader"]
    assert "no worker" in the(found, "workers").detail


def test_a_silent_worker(doctor: Examine, well: Services, superuser: sa.Connection) -> None:
    age_worker(superuser, "worker-1", LEASE_S + 5)
    found = doctor()
    assert ill(found) == ["workers"]
    assert the(found, "workers", "warning").detail == "silent for a lease: worker-1"
    assert the(found, "agents", "warning").detail.endswith("echo")
    assert well


def test_a_leader_whose_time_is_over(doctor: Examine, well: Services, superuser: sa.Connection) -> None:
    superuser.execute(sa.text("UPDATE lanewise.leases SET expires_at = now()"))
    assert "nobody led within 2.1 s" in the(doctor(), "leader").detail
    assert well


def test_a_worker_about_to_end_takes_no_runs(doctor: Examine, well: Services, superuser: sa.Connection) -> None:
    superuser.execute(sa.text("UPDATE lanewise.workers SET draining = true"))
    assert ill(doctor()) == ["workers"]
    assert well


def test_runs_that_nobody_serves(doctor: Examine, well: Services, submit: Submit) -> None:
    submit("alice", agent=an_agent("lost", queue="far"), served=False)
    finding = the(doctor(), "agents")
    assert "1 queued runs of lost" in finding.detail
    assert "LANEWISE_QUEUES=far" in finding.cure
    assert well


def test_runs_whose_queue_nobody_serves_though_somebody_has_their_agent(
    doctor: Examine, well: Services, submit: Submit
) -> None:
    submit("alice", agent=an_agent("echo", queue="old"), served=False)
    assert "serves its queue old" in the(doctor(), "agents").detail
    assert well


def test_a_run_that_was_granted_long_ago(
    doctor: Examine, well: Services, submit: Submit, superuser: sa.Connection
) -> None:
    run = submit("alice")
    hold(well, "alice", f"{run.id}:1")
    superuser.execute(sa.text("UPDATE lanewise.runs SET granted_at = now() - interval '90 s'"))
    found = doctor()
    assert ill(found) == []
    waited = re.search(r"the oldest for ([\d.]+) s", the(found, "waiting", "warning").detail)
    assert waited is not None
    assert 90 <= float(waited[1]) < 120


def test_an_agent_that_only_a_dead_worker_had(doctor: Examine, well: Services, superuser: sa.Connection) -> None:
    announce_worker(well, {**ECHO, "name": "old"}, worker_id="worker-2")
    superuser.execute(sa.text("DELETE FROM lanewise.workers WHERE id = 'worker-2'"))
    assert the(doctor(), "agents", "warning").detail.endswith("no worker serves them: old")


# The database


@pytest.mark.parametrize(("revision", "status"), [("0001", "failed"), ("9999", "warning")])
def test_another_revision(
    doctor: Examine, well: Services, superuser: sa.Connection, revision: str, status: str
) -> None:
    superuser.execute(sa.text("UPDATE lanewise.alembic_version SET version_num = :revision"), {"revision": revision})
    found = doctor()
    assert f"revision {revision}" in the(found, "schema", status).detail
    assert ill(found) == (["schema"] if status == "failed" else [])
    assert well


def test_a_database_without_a_schema(doctor: Examine, servers: Servers) -> None:
    with servers.new_database("template1") as empty:
        assert the(doctor(DATABASE_URL=servers.url(empty, SERVICE)), "schema").cure == "run `lanewise migrate`"


def test_a_service_that_nothing_binds(doctor: Examine, well: Services, servers: Servers, database_name: str) -> None:
    assert "does not bind postgres" in the(doctor(DATABASE_URL=servers.url(database_name)), "roles").detail
    assert well


def test_a_retention_of_the_audit_trail_that_migrate_was_not_told(doctor: Examine, well: Services) -> None:
    found = the(doctor(AUDIT_RETENTION_DAYS="30"), "audit trail", "warning")
    assert "younger than 365 days; LANEWISE_AUDIT_RETENTION_DAYS is 30" in found.detail
    assert found.cure.startswith("run `lanewise migrate`")
    assert well


def test_a_table_that_is_open(doctor: Examine, well: Services, superuser: sa.Connection) -> None:
    superuser.execute(sa.text("ALTER TABLE lanewise.documents NO FORCE ROW LEVEL SECURITY"))
    superuser.execute(sa.text("ALTER TABLE lanewise.runs DISABLE ROW LEVEL SECURITY"))
    assert the(doctor(), "roles").detail == "row level security is not forced on documents, runs"
    assert well


@pytest.mark.parametrize("role", [SERVICE, None])
def test_sandboxes_that_see_too_much(
    doctor: Examine, well: Services, servers: Servers, database_name: str, role: str | None
) -> None:
    assert ill(doctor(RUN_DATABASE_URL=servers.url(database_name, role))) == ["sandbox role"]
    assert well


def test_sandboxes_that_cannot_connect(doctor: Examine, well: Services, servers: Servers, database_name: str) -> None:
    url = servers.url(database_name, RUN).replace(":password@", ":wrong-one@")
    finding = the(doctor(RUN_DATABASE_URL=url), "sandbox role")
    assert "authentication failed" in finding.detail
    assert "wrong-one" not in str(finding)
    assert well


def test_without_postgres_the_rest_is_still_told(doctor: Examine) -> None:
    found = doctor(DATABASE_URL=f"postgresql://u:secret-word@127.0.0.1:{free_port()}/x")
    assert ill(found) == ["postgres"]
    assert the(found, "redis", "ok")
    assert "secret-word" not in str(found)


# Redis


@pytest.fixture
def eviction(services: Services) -> Iterator[None]:
    services.redis.config_set("maxmemory-policy", "allkeys-lru")
    yield
    services.redis.config_set("maxmemory-policy", "noeviction")


@pytest.mark.usefixtures("eviction")
def test_a_redis_that_forgets(doctor: Examine, well: Services) -> None:
    found = doctor()
    assert ill(found) == ["redis", "broker"]
    assert "allkeys-lru" in the(found, "redis").detail
    assert well


def test_without_redis(doctor: Examine, well: Services) -> None:
    gone = f"redis://127.0.0.1:{free_port()}/0"
    assert set(ill(doctor(REDIS_URL=gone, BROKER_URL=gone))) == {"redis", "broker", "clocks", "slots"}
    assert ill(doctor(REDIS_URL=well.settings.redis_url.get_secret_value(), BROKER_URL=gone)) == ["broker"]


# This machine


@pytest.mark.parametrize(("behind_s", "status"), [(30.0, "failed"), (3.0, "warning")])
def test_a_clock_that_goes_wrong(
    doctor: Examine, well: Services, monkeypatch: pytest.MonkeyPatch, behind_s: float, status: str
) -> None:
    class Clock:
        @staticmethod
        def time() -> float:
            return time.time() - behind_s

    monkeypatch.setattr(stores, "time", Clock)
    ahead = re.findall(r"[+-]\d+\.\d+", the(doctor(), "clocks", status).detail)
    assert list(map(float, ahead)) == [pytest.approx(behind_s, abs=0.5)] * 2
    assert well


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("LEASES_S", "3", "LANEWISE_LEASE_S"), ("LEASE_S", "0", "LEASE_S"), ("SECRET_KEY", "short", "32 characters")],
)
def test_settings_that_no_process_would_start_with(doctor: Examine, name: str, value: str, said: str) -> None:
    found = doctor(**{name: value})
    assert said in the(found, "settings").detail
    assert list(found)[-1] == "settings"


def test_settings_that_are_only_odd(doctor: Examine, well: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    found = doctor(SECRET_KEY="01" * 20)
    assert ill(found) == []
    assert "few different characters" in the(found, "settings", "warning").detail
    monkeypatch.delenv("LANEWISE_RUN_DATABASE_URL")
    words = [finding.detail for finding in examine()]
    assert "agents have no database session" in words
    assert well


def test_libraries_that_are_too_old_or_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["celery>=99", "no-such-thing>=1", "also-none; extra == 'more'", "redis>=8"]
    monkeypatch.setattr("importlib.metadata.requires", lambda _: asked)
    (finding,) = local.libraries()
    assert finding.status == "failed"
    assert finding.detail.startswith("celery>=99 (is 5.")
    assert finding.detail.endswith("no-such-thing>=1 (is missing)")
