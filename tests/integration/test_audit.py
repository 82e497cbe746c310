"""The audit trail in Postgres: signed as it is written, sealed by workers; what is done to it by SQL is found."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.orm import Session

from shared import audit, audit_chain
from shared.audit_chain import AuditChain
from shared.audit_check import Examination, Flaw, examine
from shared.database import Database
from shared.migrate import migrate
from shared.models import RUN, SERVICE, AuditAnchor, AuditEntry, AuditSeal, Base
from shared.outcomes import Completed
from shared.services import Services
from shared.settings import Settings
from tests.audit_trails import tamper_in_postgres
from tests.services import SECRETS, OpenServices, Servers, Submit, in_parallel, start_run
from tests.steps import LOST, finish

NEWER = "newer-secret-" + "1" * 32
DAYS = 365.0
SEED = 20_261_129


@pytest.fixture
def chain(services: Services) -> AuditChain:
    return chain_of(services)


def chain_of(services: Services) -> AuditChain:
    return AuditChain(services.database, audit.keys_of(services.settings), DAYS)


def deed(database: Database, target: str, user_id: str = "alice") -> None:
    with database.user_session(user_id) as session:
        audit.record(session, user_id=user_id, actor="user:root", action="test.do", target=target, detail={"n": 1})


def flaws(database: Database, settings: Settings) -> list[Flaw]:
    return list(examine(database, Examination(audit.keys_of(settings))))


def counts(superuser: sa.Connection) -> tuple[int, int]:
    """Returns how many records and seals there are."""
    (row,) = superuser.execute(
        sa.text("SELECT (SELECT count(*) FROM lanewise.audit_log), (SELECT count(*) FROM lanewise.audit_seals)")
    )
    return row[0], row[1]


def seals_of(database: Database) -> list[int | None]:
    with database.system_session() as session:
        return list(session.scalars(sa.select(AuditEntry.seal).order_by(AuditEntry.id)))


# Writing and sealing


def test_what_a_run_leaves_is_signed_and_sealed_without_a_flaw(
    services: Services, settings: Settings, chain: AuditChain, submit: Submit
) -> None:
    assert flaws(services.database, settings) == []
    assert chain.seal() == 0
    run = start_run(services, submit())
    assert finish(services.database, run, LOST)
    assert finish(services.database, start_run(services, run), Completed({}))
    with services.database.user_session("alice") as session:
        entries = session.scalars(sa.select(AuditEntry).order_by(AuditEntry.id)).all()
    told = [(e.actor, e.action, e.object, e.outcome, e.correlation_id) for e in entries]
    who, what = "user:alice", (run.id, run.correlation_id)
    assert told == [
        (who, "run.submit", what[0], "ok", what[1]),
        ("worker:w", "run.recover", what[0], "sandbox_died", what[1]),
        ("worker:w", "run.end", what[0], "completed", what[1]),
    ]
    assert flaws(services.database, settings) == []
    assert chain.seal() == 1
    assert chain.seal() == 1
    assert seals_of(services.database) == [1, 1, 1]
    assert flaws(services.database, settings) == []


def test_a_record_that_is_committed_late_is_in_the_next_seal(
    database: Database, settings: Settings, chain: AuditChain
) -> None:
    with database.user_session("alice") as late:
        audit.record(late, user_id="alice", actor="user:alice", action="test.do", target="late")
        deed(database, "early")  # has a higher id, and is committed first
        assert chain.seal() == 1
    assert seals_of(database) == [None, 1]
    assert chain.seal() == 2
    assert seals_of(database) == [2, 1]
    assert flaws(database, settings) == []


def test_nobody_waits_for_a_seal_that_is_not_committed(
    services: Services, settings: Settings, chain: AuditChain, submit: Submit, superuser: sa.Connection
) -> None:
    """A worker that stands still in its transaction holds no lock that a run needs."""
    submit()
    superuser.exec_driver_sql("BEGIN")
    superuser.exec_driver_sql("UPDATE lanewise.audit_anchors SET seal = seal")
    superuser.exec_driver_sql("UPDATE lanewise.audit_log SET seal = seal")
    run = start_run(services, submit("bob"))
    assert finish(services.database, run, Completed({}))
    superuser.exec_driver_sql("ROLLBACK")
    assert chain.seal() == 1
    assert flaws(services.database, settings) == []


def test_workers_at_once_seal_each_record_once(
    open_services: OpenServices, database: Database, settings: Settings
) -> None:
    chains = [chain_of(open_services()) for _ in range(3)]
    writing = threading.Event()

    def work(number: int) -> None:
        if number < len(chains):
            while not writing.is_set():
                chains[number].seal()
            return
        try:
            for n in range(60):
                deed(database, str(n))
        finally:
            writing.set()

    in_parallel(len(chains) + 1, work)
    chains[0].seal()
    assert None not in seals_of(database)
    assert len(seals_of(database)) == 60
    assert flaws(database, settings) == []


def test_the_service_can_neither_change_nor_remove_nor_seal_by_hand(database: Database) -> None:
    deed(database, "one")
    for statement in (
        "UPDATE audit_log SET outcome = 'no'", "DELETE FROM audit_log", "TRUNCATE audit_log",
        "INSERT INTO audit_log SELECT * FROM audit_log", "DELETE FROM audit_seals", "UPDATE audit_anchors SET seal = 0",
        "UPDATE audit_retention SET age = '0'", "DELETE FROM audit_retention",
    ):  # fmt: skip
        with pytest.raises(ProgrammingError, match="permission denied"), database.system_session() as session:
            session.execute(sa.text(statement))


# Tampering, by somebody who may do everything in the database and has not the key


@pytest.fixture
def sealed(database: Database, chain: AuditChain) -> Database:
    """Three seals of two records each, and a record that is not sealed yet."""
    for number in range(6):
        deed(database, str(number), "alice" if number % 2 else "bob")
        if number % 2:
            chain.seal()
    deed(database, "6")
    return database


# What is done, as the schema's owner sees it, and a kind of flaw that is to be found.
TAMPERINGS = {
    "edit": ("UPDATE audit_log SET actor = 'user:eve' WHERE object = '2'", "record_edited"),
    "edit what is not sealed": ("UPDATE audit_log SET outcome = 'no' WHERE object = '6'", "record_edited"),
    "edit the detail": ("UPDATE audit_log SET detail = '{\"n\": 2}' WHERE object = '2'", "record_edited"),
    "edit the time": ("UPDATE audit_log SET at = 'infinity' WHERE object = '2'", "record_edited"),
    "delete": ("DELETE FROM audit_log WHERE object = '3'", "record_removed"),
    "delete the last": ("DELETE FROM audit_log WHERE object = '5'", "record_removed"),
    "insert": (
        """
        INSERT INTO audit_log SELECT repeat('a', 32), at, user_id, actor, action, object, outcome, correlation_id,
            detail, key_id, mac, seal FROM audit_log WHERE object = '3'
        """,
        "record_added",
    ),
    "swap": (
        """
        UPDATE audit_log a SET object = b.object, mac = b.mac FROM audit_log b
        WHERE (a.object, b.object) IN (('1', '4'), ('4', '1'))
        """,
        "record_edited",
    ),
    "swap between seals": (
        "UPDATE audit_log SET seal = CASE seal WHEN 1 THEN 2 ELSE 1 END WHERE object IN ('1', '2')",
        "record_added",
    ),
    "cut the tail": ("DELETE FROM audit_log WHERE seal = 3; DELETE FROM audit_seals WHERE number = 3", "tail_cut"),
    "cut the tail and move the anchor": (
        """
        DELETE FROM audit_log WHERE seal = 3; DELETE FROM audit_seals WHERE number = 3;
        UPDATE audit_anchors SET seal = 2, seal_mac = s.mac FROM audit_seals s WHERE name = 'last' AND number = 2
        """,
        "anchor_edited",
    ),
    "cut the head": (
        """
        UPDATE audit_anchors SET seal = 1, seal_mac = s.mac FROM audit_seals s WHERE name = 'first' AND number = 1;
        DELETE FROM audit_log WHERE seal = 1; DELETE FROM audit_seals WHERE number = 1
        """,
        "anchor_edited",
    ),
    "take a seal out": (
        "DELETE FROM audit_log WHERE seal = 2; DELETE FROM audit_seals WHERE number = 2",
        "seal_removed",
    ),
    "put the anchor out of reach": (
        "UPDATE audit_anchors SET seal = 9223372036854775807 WHERE name = 'last'",
        "anchor_edited",
    ),
    "empty all": ("TRUNCATE audit_log, audit_seals, audit_anchors", "anchor_edited"),
    "make room for copies": ("ALTER TABLE audit_log DROP CONSTRAINT audit_log_pkey", "record_added"),
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_tampering_by_sql_is_found_and_stays_so_when_workers_go_on(
    sealed: Database, settings: Settings, chain: AuditChain, superuser: sa.Connection, how: str
) -> None:
    assert flaws(sealed, settings) == []
    statements, kind = TAMPERINGS[how]
    superuser.exec_driver_sql(f"SET search_path = lanewise; {statements}")
    assert kind in {flaw.kind for flaw in flaws(sealed, settings)}
    deed(sealed, "7")
    for _ in range(2):  # sealing goes on, and makes nothing good
        assert chain.seal() is not None
        assert flaws(sealed, settings) != []
    assert None not in seals_of(sealed)


def test_random_tampering_in_postgres_is_found(
    database: Database, settings: Settings, superuser: sa.Connection
) -> None:
    """Some of those that `make chaos PART=audit` makes."""
    tried = tamper_in_postgres(database, superuser, audit.keys_of(settings), SEED, 60)
    assert len(tried) >= 8
    assert tried["refused"] < tried.total() / 3


# What each column of the three tables becomes, of the row that has been there the longest.
EDITS: dict[type[Base], dict[str, str]] = {
    AuditEntry: {
        "id": "repeat('a', 32)", "at": "at + interval '1 us'", "user_id": "user_id || ' '", "actor": "upper(actor)",
        "action": "action || '.'", "object": "object || '0'", "outcome": "''", "correlation_id": "repeat('b', 32)",
        "detail": "detail || '{\"n\": 2}'", "key_id": "reverse(key_id)", "mac": "upper(mac)", "seal": "seal + 1",
    },
    AuditSeal: {
        "number": "number + 100", "sealed_at": "sealed_at - interval '1 us'", "ids": "ids[2:] || ids[1]",
        "previous": "repeat('0', 64)", "digest": "reverse(digest)", "key_id": "''", "mac": "reverse(mac)",
    },
    AuditAnchor: {
        "name": "name || ' '", "seal": "seal + 1", "seal_mac": "seal_mac || ' '", "key_id": "'x'", "mac": "mac || '0'",
    },
}  # fmt: skip


@pytest.mark.parametrize("table", EDITS)
def test_no_column_can_be_edited_unseen(
    sealed: Database, settings: Settings, superuser: sa.Connection, table: type[Base]
) -> None:
    name, edits = f"lanewise.{table.__tablename__}", EDITS[table]
    assert edits.keys() == {column.name for column in sa.inspect(table).columns}, "a column is new: how is it edited?"
    (key,) = sa.inspect(table).primary_key
    rows = superuser.scalars(sa.select(key).order_by(key)).all()
    for row in (rows[0], rows[-1]):
        for column, value in edits.items():
            superuser.exec_driver_sql(f"CREATE TABLE kept AS TABLE {name}")
            edit = f"UPDATE {name} SET {column} = {value} WHERE {key.name} = %(row)s"  # noqa: S608 - of ours
            superuser.exec_driver_sql(edit, {"row": row})
            found = flaws(sealed, settings)
            changed = superuser.scalar(sa.text(f"SELECT EXISTS (TABLE {name} EXCEPT TABLE kept)"))
            assert bool(found) == changed, (column, row)
            assert changed or column in {"seal", "ids"}, (column, row)  # none where it is not sealed; one id alone
            superuser.exec_driver_sql(f"TRUNCATE {name}; INSERT INTO {name} TABLE kept; DROP TABLE kept")
    assert flaws(sealed, settings) == []


def test_what_is_not_sealed_yet_is_taken_back_by_its_own_transaction_only(
    database: Database, settings: Settings, chain: AuditChain
) -> None:
    with pytest.raises(ZeroDivisionError), database.user_session("alice") as session:
        audit.record(session, user_id="alice", actor="user:alice", action="test.do", target="x")
        raise ZeroDivisionError
    assert seals_of(database) == []
    assert chain.seal() == 0
    assert flaws(database, settings) == []


def test_an_anchor_of_an_earlier_time_does_not_stop_sealing(
    sealed: Database, settings: Settings, chain: AuditChain, superuser: sa.Connection
) -> None:
    superuser.exec_driver_sql("CREATE TABLE kept AS SELECT * FROM lanewise.audit_anchors")
    assert chain.seal() == 4
    back = "UPDATE lanewise.audit_anchors a SET seal = k.seal, seal_mac = k.seal_mac, mac = k.mac FROM kept k"
    superuser.exec_driver_sql(f"{back} WHERE k.name = a.name")
    assert [flaw.kind for flaw in flaws(sealed, settings)] == ["anchor_edited"]
    assert chain.seal() == 5
    assert [flaw.kind for flaw in flaws(sealed, settings)] == ["tampering_recorded"]


# Going back: what came after a seal is deleted, and the anchor of that time, which has a good MAC, is put back

BACK = """
    DELETE FROM lanewise.audit_log WHERE seal IS NULL OR seal > 1; DELETE FROM lanewise.audit_seals WHERE number > 1;
    DELETE FROM lanewise.audit_anchors WHERE name = 'last'; INSERT INTO lanewise.audit_anchors TABLE kept
"""


@pytest.fixture
def back(database: Database, chain: AuditChain, superuser: sa.Connection) -> str:
    """Five seals of a record each; returns what takes the trail back to the first of them."""
    for number in range(5):
        deed(database, str(number))
        chain.seal()
        if number == 0:
            superuser.exec_driver_sql("CREATE TABLE kept AS SELECT * FROM lanewise.audit_anchors WHERE name = 'last'")
    return BACK


def last_seal(database: Database, settings: Settings) -> tuple[int, str]:
    examination = Examination(audit.keys_of(settings))
    list(examine(database, examination))
    number, mac = examination.last.split(":")
    return int(number), mac


def found_by_workers(database: Database) -> list[tuple[str, str, int | None]]:
    """Returns what workers have recorded: target, outcome, and the seal that covers it."""
    query = sa.select(AuditEntry.object, AuditEntry.outcome, AuditEntry.seal).where(
        AuditEntry.action == audit_chain.BROKEN
    )
    with database.system_session() as session:
        return [(row.object, row.outcome, row.seal) for row in session.execute(query.order_by(AuditEntry.id))]


def test_a_chain_that_has_gone_back_is_found_by_the_worker_that_had_sealed(
    database: Database, settings: Settings, chain: AuditChain, superuser: sa.Connection, back: str
) -> None:
    number, mac = last_seal(database, settings)
    assert number == 5
    superuser.exec_driver_sql(back)
    assert flaws(database, settings) == []  # nothing that is there tells
    known = Examination(audit.keys_of(settings), {number: mac})
    assert [flaw.kind for flaw in examine(database, known)] == ["tail_cut"]
    for _ in range(2):  # with nothing else to seal
        assert chain.seal() == 2
    for end in range(3, 8):  # up to the remembered number, and beyond
        deed(database, "more")
        assert chain.seal() == end
    assert found_by_workers(database) == [("seal 1", f"the chain has gone back: it had the seal 5:{mac}", 2)]
    assert [flaw.kind for flaw in flaws(database, settings)] == ["tampering_recorded"]
    superuser.exec_driver_sql(back)  # again, and the record of the first time with it
    assert chain.seal() == 2
    assert [target for target, _, _ in found_by_workers(database)] == ["seal 1"]


def test_a_chain_that_has_gone_back_is_found_by_a_worker_that_had_only_read(
    services: Services, settings: Settings, superuser: sa.Connection, back: str
) -> None:
    """However far others have sealed since: in the place of the seal that it remembers is another."""
    database, readers, other = services.database, [chain_of(services), chain_of(services)], chain_of(services)
    _, mac = last_seal(database, settings)
    assert [reader.seal() for reader in readers] == [5, 5]
    superuser.exec_driver_sql(back)
    for end in range(2, 6):
        deed(database, "more")
        assert other.seal() == end
    assert found_by_workers(database) == []  # it had not lived then
    assert [readers[0].seal(), readers[0].seal()] == [6, 6]
    deed(database, "more")
    assert other.seal() == 7
    assert [readers[1].seal(), readers[1].seal()] == [8, 8]
    outcome = f"the chain has gone back: it had the seal 5:{mac}"
    assert found_by_workers(database) == [("seal 5", outcome, 6), ("seal 7", outcome, 8)]  # each worker once


def test_what_a_worker_found_is_recorded_once_postgres_is_there_again(
    services: Services, chain: AuditChain, superuser: sa.Connection, back: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser.exec_driver_sql(back)
    with monkeypatch.context() as patch:
        patch.setattr(audit_chain, "_SEAL", sa.text("SELECT 1 / 0 WHERE :seen || :seal || :anchor IS NOT NULL"))
        with pytest.raises(DBAPIError):
            chain.seal()
    assert found_by_workers(services.database) == []
    assert chain.seal() == 2
    assert len(found_by_workers(services.database)) == 1


def test_what_a_worker_found_is_recorded_once_also_if_another_seals_it(
    database: Database, chain: AuditChain, superuser: sa.Connection, back: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    superuser.exec_driver_sql(back)
    with monkeypatch.context() as patch:
        patch.setattr(audit_chain, "_SEAL", sa.text("SELECT :seen || :seal || :anchor IS NULL"))
        assert chain.seal() is None  # another worker was faster
    assert chain.seal() == 2
    assert [seal for _, _, seal in found_by_workers(database)] == [2]


def test_workers_that_seal_in_turn_and_retention_are_no_going_back(
    services: Services, settings: Settings, superuser: sa.Connection
) -> None:
    database, workers = services.database, [chain_of(services) for _ in range(3)]
    for number in range(1, 10):
        deed(database, str(number))
        assert workers[number % 2].seal() == number
        if number == 2:
            assert workers[2].seal() == 2  # and looks again when that seal is past retention
    age(superuser, settings, 1, 2, 3)
    late = [chain_of(services) for _ in range(2)]
    assert [worker.seal() for worker in late] == [9, 9]
    assert late[0].remove_old() == 3
    deed(database, "10")
    assert [worker.seal() for worker in (*late, workers[2])] == [10, 10, 10]
    assert found_by_workers(database) == []
    assert flaws(database, settings) == []


# Keys


def test_records_outlive_a_rotation_of_keys(
    sealed: Database, settings: Settings, open_services: OpenServices, superuser: sa.Connection
) -> None:
    old, new = settings.secret_key, settings.model_validate({**settings.model_dump(), "secret_key": (NEWER, *SECRETS)})
    both = open_services(secret_key=new.secret_key)
    deed(both.database, "by the new key")
    assert chain_of(both).seal() == 4
    assert flaws(sealed, both.settings) == []
    retired = open_services(secret_key=new.secret_key[:1], audit_keys=old)
    deed(retired.database, "after the old one was retired")
    assert chain_of(retired).seal() == 5
    assert flaws(sealed, retired.settings) == []
    lost = open_services(secret_key=new.secret_key[:1])
    assert {flaw.kind for flaw in flaws(sealed, lost.settings)} == {"unknown_key"}
    assert counts(superuser) == (9, 5)


def test_without_the_key_of_the_chain_sealing_goes_on_and_says_so(
    sealed: Database, open_services: OpenServices, settings: Settings
) -> None:
    new = settings.model_validate({**settings.model_dump(), "secret_key": (NEWER,)})
    other = open_services(secret_key=new.secret_key)
    assert chain_of(other).seal() == 4
    assert chain_of(other).seal() == 4
    with_old = open_services(secret_key=new.secret_key, audit_keys=settings.secret_key)
    assert [flaw.kind for flaw in flaws(sealed, with_old.settings)] == ["tampering_recorded"]


# Retention


def age(
    superuser: sa.Connection, settings: Settings, *numbers: int, by: timedelta = timedelta(days=DAYS, minutes=1)
) -> None:
    """Has the fleet itself have made seals so long ago: they and what follows are signed anew."""
    keys, previous = audit.keys_of(settings), ""
    with Session(superuser) as session:
        for row in session.scalars(sa.select(AuditSeal).order_by(AuditSeal.number)):
            seal = session.execute(sa.select(*audit_chain.SEAL).where(AuditSeal.number == row.number)).one()
            at = row.sealed_at - by if row.number in numbers else row.sealed_at
            made = replace(audit_chain.seal_of(seal), sealed_at=audit.time_of(at), previous=previous)
            row.sealed_at, row.previous, row.mac = at, previous, keys.sign(made.content())["mac"]
            previous = row.mac
        last = session.get_one(AuditAnchor, "last")
        made_anchor = audit_chain.Anchor("last", last.seal, previous)
        last.seal_mac, last.mac = previous, keys.sign(made_anchor.content())["mac"]
        session.commit()


def test_retention_takes_whole_seals_and_leaves_a_chain_that_verifies(
    sealed: Database, services: Services, settings: Settings, chain: AuditChain, superuser: sa.Connection
) -> None:
    assert chain.remove_old() == 0
    age(superuser, settings, 1, 2)
    assert flaws(sealed, settings) == []
    assert chain.remove_old() == 2
    assert chain.remove_old() == 0
    assert counts(superuser) == (3, 2)  # the last seal stays without its records
    assert flaws(sealed, settings) == []
    assert chain_of(services).seal() == 4  # the other one knows that the seals were younger
    superuser.execute(sa.text("DELETE FROM lanewise.audit_log WHERE object = '4'"))
    assert [flaw.kind for flaw in flaws(sealed, settings)] == ["record_removed"]


def test_a_seal_that_somebody_aged_is_not_removed(
    sealed: Database, settings: Settings, chain: AuditChain, superuser: sa.Connection
) -> None:
    superuser.execute(sa.text("UPDATE lanewise.audit_seals SET sealed_at = now() - interval '2 years'"))
    assert chain.remove_old() == 0
    assert counts(superuser) == (7, 3)
    assert flaws(sealed, settings) != []


def test_retention_makes_a_beginning_that_somebody_has_moved_not_good(
    sealed: Database, settings: Settings, chain: AuditChain, superuser: sa.Connection
) -> None:
    age(superuser, settings, 1, 2, 3)
    move = """
        UPDATE lanewise.audit_anchors a SET seal = 2, seal_mac = s.mac FROM lanewise.audit_seals s
        WHERE a.name = 'first' AND s.number = 2
    """
    superuser.execute(sa.text(move))
    assert chain.remove_old() == 0
    assert counts(superuser) == (7, 3)
    assert flaws(sealed, settings) != []


def refused(database: Database, call: str, **values: object) -> str:
    """Returns why Postgres does not do what somebody with the service's login asks for."""
    with pytest.raises(DBAPIError) as caught, database.system_session() as session:
        session.execute(sa.text(f"SELECT {call}"), {name: json.dumps(value) for name, value in values.items()})
    return str(caught.value.orig)


def trim(database: Database, settings: Settings, number: int, mac: str | None = None) -> str:
    """Tries to remove all up to a seal, with the login and the key of a worker; returns why that is refused."""
    with database.system_session() as session:
        first = session.get_one(AuditAnchor, "first").seal
        found = session.scalar(sa.select(AuditSeal.mac).where(AuditSeal.number == number))
    anchor = audit_chain.Anchor("first", number, mac or found or "").signed(audit.keys_of(settings))
    return refused(database, f"trim_audit({first}, CAST(:anchor AS jsonb))", anchor=anchor)


def test_whoever_has_the_key_and_login_of_a_worker_removes_nothing_before_its_time(
    sealed: Database, settings: Settings, superuser: sa.Connection
) -> None:
    for number in (1, 2, 3):
        assert "that are to be kept" in trim(sealed, settings, number)
    age(superuser, settings, 1, by=timedelta(days=DAYS - 1))
    assert "that are to be kept" in trim(sealed, settings, 1)
    age(superuser, settings, 1, 3)
    for number in (2, 3):  # an old seal behind a young one does not take that along
        assert "that are to be kept" in trim(sealed, settings, number)
    for number in (0, 4, 2**62):
        assert "there is no such seal" in trim(sealed, settings, number)
    assert "there is no such seal" in trim(sealed, settings, 1, "another")
    assert counts(superuser) == (7, 3)
    assert flaws(sealed, settings) == []


def test_nor_can_they_call_new_seals_and_records_old(sealed: Database, settings: Settings) -> None:
    keys, now = audit.keys_of(settings), datetime.now(UTC)
    with sealed.system_session() as session:
        last = session.get_one(AuditAnchor, "last")
        entry = audit.Record(*session.execute(sa.select(*audit.RECORD).where(AuditEntry.seal.is_(None))).one())
    for hours in (-DAYS * 48, -2, 2):
        at, digest = audit.time_of(now + timedelta(hours=hours)), audit_chain.digest_of([entry.mac])
        seal = audit_chain.Seal(4, at, [entry.id], last.seal_mac, digest).signed(keys)
        anchor = audit_chain.Anchor("last", 4, seal["mac"]).signed(keys)
        call = "seal_audit(3, CAST(:seal AS jsonb), CAST(:anchor AS jsonb))"
        assert "an hour off" in refused(sealed, call, seal=seal, anchor=anchor)
    for days in (-2 * DAYS, -2, 2):
        record = replace(entry, id="a" * 32, at=audit.time_of(now + timedelta(days=days)))
        assert "a day off" in refused(sealed, "record_audit(CAST(:record AS jsonb))", record=vars(record))
    assert flaws(sealed, settings) == []


def test_a_worker_with_a_shorter_retention_than_the_owner_s_removes_nothing_sooner(
    sealed: Database, settings: Settings, superuser: sa.Connection
) -> None:
    shorter = AuditChain(sealed, audit.keys_of(settings), 1)
    age(superuser, settings, 1)
    age(superuser, settings, 2, by=timedelta(days=2))
    assert [shorter.remove_old(), shorter.remove_old()] == [1, 0]
    age(superuser, settings, 2)
    superuser.exec_driver_sql("UPDATE lanewise.audit_retention SET age = NULL")  # as long as nobody has said it
    assert shorter.remove_old() == 0
    assert "that are to be kept" in trim(sealed, settings, 2)
    assert counts(superuser) == (5, 3)


def test_a_longer_retention_accuses_nobody_of_what_a_shorter_one_has_removed(
    sealed: Database, settings: Settings, servers: Servers, database_name: str, superuser: sa.Connection
) -> None:
    urls = servers.url(database_name), servers.url(database_name, SERVICE), servers.url(database_name, RUN)
    migrate(*urls, SECRETS, 1)
    age(superuser, settings, 1, by=timedelta(days=1, minutes=1))
    assert AuditChain(sealed, audit.keys_of(settings), 1).remove_old() == 1
    for _ in range(2):
        migrate(*urls, SECRETS, DAYS)
        assert flaws(sealed, settings) == []
    age(superuser, settings, 2, by=timedelta(days=1, minutes=1))
    assert "that are to be kept" in trim(sealed, settings, 2)
