"""Slots and live runs side by side, with differences planted on either side."""

from __future__ import annotations

import time

import pytest
from pydantic import SecretStr

from lanewise.ports import free_port
from shared import lanes, runs, survey
from shared.models import Run, UserLimit
from shared.services import Services
from shared.survey import Survey, UserSlots
from tests.services import OpenServices, Submit, slot


def hold(services: Services, user_id: str, *members: str, lease_s: float = 60) -> None:
    """Takes slots as the scripts do, whatever Postgres says."""
    services.redis.zadd(services.keys.slots(user_id), dict.fromkeys(members, time.time() + lease_s))


def grant(services: Services, run: Run) -> None:
    with services.database.user_session(run.user_id) as session:
        assert lanes.grant(session, run.user_id, [slot(run)])


def claim(services: Services, run: Run) -> None:
    with services.database.user_session(run.user_id) as session:
        session.merge(run)
        stored = session.get_one(Run, (run.user_id, run.id))
        stored.status, stored.attempt = "running", stored.attempt + 1


def only(found: Survey) -> UserSlots:
    (user,) = found.users
    return user


def test_a_fleet_without_runs_has_nothing(services: Services) -> None:
    assert survey.survey(services) == Survey((), redis=True, complete=True)


def test_what_an_agent_stores_under_a_name_like_that_of_slots_is_none(services: Services) -> None:
    services.redis.set(services.keys.store("alice", "{x}:slots"), "1")
    assert survey.survey(services) == Survey((), redis=True, complete=True)


def test_every_live_run_is_counted_where_it_stands(services: Services, submit: Submit) -> None:
    granted, running, *_ = [submit("alice") for _ in range(4)]
    submit("bob")
    grant(services, granted)
    grant(services, running)
    claim(services, running)
    hold(services, "alice", f"{granted.id}:1", f"{running.id}:1")
    services.redis.zadd(services.keys.slots("alice"), {"ready": "inf", "doubt:1": "inf"})
    with services.database.user_session("alice") as session:
        session.add(UserLimit(user_id="alice", concurrent_runs=7))
    found = survey.survey(services)
    alice, bob = found.users
    assert (alice.user_id, alice.limit, alice.granted, alice.running, alice.parked) == ("alice", 7, 1, 1, 2)
    assert set(alice.held or ()) == {f"{granted.id}:1", f"{running.id}:1"}
    assert (bob.limit, bob.held, bob.parked) == (3, (), 1)
    assert (found.held, found.leaked, found.missing) == (2, 0, 0)


@pytest.mark.parametrize("attempt", [0, 2])
def test_another_attempt_is_another_slot(services: Services, submit: Submit, attempt: int) -> None:
    run = submit("alice")
    grant(services, run)
    hold(services, "alice", f"{run.id}:{attempt}")
    alice = only(survey.survey(services))
    assert (alice.leaked, alice.missing) == ((f"{run.id}:{attempt}",), (f"{run.id}:1",))


def test_a_parked_run_has_no_slot_and_one_that_lapsed_is_none(services: Services, submit: Submit) -> None:
    parked, running = submit("alice"), submit("alice")
    grant(services, running)
    claim(services, running)
    hold(services, "alice", f"{parked.id}:1")
    hold(services, "alice", f"{running.id}:1", lease_s=-1)
    alice = only(survey.survey(services))
    assert (alice.leaked, alice.missing) == ((f"{parked.id}:1",), (f"{running.id}:1",))


def test_slots_of_users_without_live_runs_are_found(
    services: Services, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(survey, "SCAN_COUNT", 1)
    submit("alice")
    ended = submit("carol")
    with services.database.user_session("carol") as session:
        runs.request_cancel(session, "carol", ended.id)
    for user_id in ("carol", "nobody"):
        hold(services, user_id, "r:1")
    for number in range(30):  # what others keep in the same Redis
        services.redis.set(f"other:{number}", "x")
    found = survey.survey(services)
    assert [(user.user_id, user.leaked) for user in found.users] == [
        ("alice", ()),
        ("carol", ("r:1",)),
        (None, ("r:1",)),
    ]
    assert found.complete
    monkeypatch.setattr(survey, "MAX_SCANS", 2)
    assert not survey.survey(services).complete


def test_a_slot_that_goes_while_one_looks_is_not_leaked(
    services: Services, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = submit("alice")
    hold(services, "alice", f"{run.id}:1")
    read_runs = survey._known_users

    def ends_meanwhile(*arguments: object) -> list[UserSlots]:
        users = read_runs(*arguments)  # type: ignore[arg-type]
        services.redis.delete(services.keys.slots("alice"))
        return users

    monkeypatch.setattr(survey, "_known_users", ends_meanwhile)
    assert only(survey.survey(services)).leaked == ()


def test_without_redis_the_runs_are_still_there(open_services: OpenServices, submit: Submit) -> None:
    submit("alice")
    away = open_services(redis_url=SecretStr(f"redis://127.0.0.1:{free_port()}/0"))
    found = survey.survey(away)
    assert (found.redis, found.held, only(found).parked) == (False, None, 1)
