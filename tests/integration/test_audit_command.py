"""`lanewise audit verify`, and the upgrade of a trail that an older version has left."""

from __future__ import annotations

import json
import re
from itertools import chain

import pytest
import sqlalchemy as sa
from alembic import command
from click.testing import CliRunner, Result

from lanewise.cli import main
from lanewise.ports import free_port
from shared import audit
from shared.audit_chain import Anchor, AuditChain
from shared.migrate import migrate
from shared.models import RUN, SERVICE
from shared.services import Services
from shared.settings import Settings
from tests.services import SECRETS, Servers, Submit, superuser_engine


def verify(settings: Settings, *options: str, **environment: str) -> Result:
    env = {
        "LANEWISE_DATABASE_URL": settings.database_url.get_secret_value(),
        "LANEWISE_SECRET_KEY": ",".join(settings.secrets),
        **environment,
    }
    return CliRunner().invoke(main, ["audit", "verify", *options], env=env)


def seal(services: Services) -> int | None:
    return AuditChain(services.database, audit.keys_of(services.settings), 365).seal()


SEALS = sa.text("SELECT number, mac FROM lanewise.audit_seals ORDER BY number")


def cut(superuser: sa.Connection, settings: Settings, number: int) -> None:
    """Removes what retention would, whatever its age."""
    (mac,) = [row.mac for row in superuser.execute(SEALS) if row.number == number]
    anchor = Anchor("first", number, mac).signed(audit.keys_of(settings))
    change = """
        DELETE FROM lanewise.audit_log WHERE seal <= :seal; DELETE FROM lanewise.audit_seals WHERE number < :seal;
        UPDATE lanewise.audit_anchors SET seal = :seal, seal_mac = :seal_mac, key_id = :key_id, mac = :mac
        WHERE name = :name
    """
    superuser.execute(sa.text(change), anchor)


def test_it_says_that_all_is_well_or_what_is_not(
    services: Services, settings: Settings, submit: Submit, superuser: sa.Connection
) -> None:
    runs = [submit() for _ in range(3)]
    assert seal(services) == 1
    submit()
    sound = verify(settings)
    assert (sound.exit_code, sound.stderr) == (0, "")
    assert sound.stdout.startswith(
        "all is as it was written: 4 records in 1 seals, 1 not sealed yet; the trail begins "
    )
    remembered = sound.stdout.rsplit(maxsplit=1)[1]
    assert verify(settings, "--seal", remembered).exit_code == 0
    assert verify(settings, "--seal", "1:ab").exit_code == 1

    superuser.execute(sa.text("UPDATE lanewise.audit_log SET actor = 'x' WHERE object = :id"), {"id": runs[0].id})
    superuser.execute(sa.text("DELETE FROM lanewise.audit_log WHERE object = :id"), {"id": runs[1].id})
    found = verify(settings)
    assert (found.exit_code, found.stderr) == (1, "")
    assert [line.split()[0] for line in found.stdout.splitlines()] == ["record_edited", "record_removed", "2"]
    assert runs[0].id in found.stdout
    *flaws, total = map(json.loads, verify(settings, "--json").stdout.splitlines())
    assert [flaw["kind"] for flaw in flaws] == ["record_edited", "record_removed"]
    assert (total["flaws"], total["records"], total["last"]) == (2, 3, remembered)

    superuser.execute(sa.text("TRUNCATE lanewise.audit_log, lanewise.audit_seals"))
    assert "tail_cut" in verify(settings, "--seal", remembered).stdout


def test_it_says_since_when_the_trail_begins_and_what_became_of_a_known_seal(
    services: Services, settings: Settings, submit: Submit, superuser: sa.Connection
) -> None:
    assert "the trail begins with the first seal to come; last seal 0:" in verify(settings).stdout
    for _ in range(3):
        submit()
        seal(services)
    began = verify(settings)
    assert re.search(r"begins with the first seal of 20\d\d-[^ ]+\+00:00; last seal 3:", began.stdout)
    known = [("--seal", f"{row.number}:{row.mac}") for row in superuser.execute(SEALS)]
    assert verify(settings, *chain.from_iterable(known)).exit_code == 0

    cut(superuser, settings, 2)  # before its time: by somebody with the key, who may also do what no service may
    for option, gone in (((), [2]), (known[0], [2, 1]), (known[1], [2]), (("--seal", "1:nonsense"), [2, 1])):
        found = verify(settings, *option)
        assert found.exit_code == 1
        assert re.findall(r"^head_cut +seal (\d):", found.stdout, re.MULTILINE) == [str(number) for number in gone]

    superuser.exec_driver_sql("UPDATE lanewise.audit_retention SET age = '1 us'")
    for option in (known[0], ("--seal", "1:nonsense")):  # the same is said of both
        said, summary = verify(settings, *option).stdout.splitlines()
        assert said == "seal 1: removed by retention; its MAC can no longer be compared"
        assert "begins after seal 2 of 20" in summary
    assert verify(settings, *known[1]).exit_code == 0  # this one stays, without its records
    assert verify(settings, "--seal", "2:nonsense").exit_code == 1
    (total,) = map(json.loads, verify(settings, "--json", *known[0]).stdout.splitlines())
    assert (total["flaws"], total["after"], total["removed"], total["since"][:2]) == (0, 2, [1], "20")


def test_wrong_use_is_said_in_a_line(settings: Settings) -> None:
    assert "is not NUMBER:MAC" in verify(settings, "--seal", "12").stderr
    assert "seal 1 is given with two MACs" in verify(settings, "--seal", "1:ab", "--seal", "1:cd").stderr
    away = verify(settings, LANEWISE_DATABASE_URL=f"postgresql://x:y@127.0.0.1:{free_port()}/z")
    assert (away.exit_code, away.stderr) == (3, "lanewise: the database is away; try again shortly\n")
    assert verify(settings, LANEWISE_SECRET_KEY="short").exit_code == 2


def test_the_records_of_an_older_version_are_signed_by_the_upgrade(
    servers: Servers, monkeypatch: pytest.MonkeyPatch
) -> None:
    with servers.new_database("template1") as name:
        urls = servers.url(name), servers.url(name, SERVICE), servers.url(name, RUN)
        upgrade = command.upgrade
        with monkeypatch.context() as patch:
            patch.setattr(command, "upgrade", lambda config, _: upgrade(config, "0005"))
            patch.setattr("shared.migrate._keep_audit", lambda *_: None)  # as that version had it
            migrate(*urls, SECRETS)
        with superuser_engine(urls[0]).connect() as connection:
            insert = """
                INSERT INTO lanewise.audit_log (user_id, actor, action, object, outcome, correlation_id, detail)
                SELECT 'alice', 'user:alice', 'run.submit', n::text, 'ok', NULL, '{"n": 1}'
                FROM generate_series(1, 25) n
            """
            connection.execute(sa.text(insert))
            migrate(*urls, SECRETS)
            settings = servers.settings(name)
            assert verify(settings).stdout.startswith("all is as it was written: 25 records in 0 seals")
            order = sa.text("SELECT object FROM lanewise.audit_log ORDER BY id")
            assert list(connection.scalars(order)) == [str(n) for n in range(1, 26)]
            migrate(*urls, SECRETS)  # signs nothing that somebody has slipped in since
            connection.execute(sa.text("UPDATE lanewise.audit_log SET mac = '' WHERE object = '7'"))
            migrate(*urls, SECRETS)
            assert verify(settings).exit_code == 1
