"""`lanewise audit verify`, and the upgrade of a trail that an older version has left."""

from __future__ import annotations

import json

import pytest
import sqlalchemy as sa
from alembic import command
from click.testing import CliRunner, Result

from lanewise.cli import main
from lanewise.ports import free_port
from shared import audit
from shared.audit_chain import AuditChain
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


def test_it_says_that_all_is_well_or_what_is_not(
    services: Services, settings: Settings, submit: Submit, superuser: sa.Connection
) -> None:
    runs = [submit() for _ in range(3)]
    assert seal(services) == 1
    submit()
    sound = verify(settings)
    assert (sound.exit_code, sound.stderr) == (0, "")
    assert sound.stdout.startswith("all is as it was written: 4 records in 1 seals, 1 not sealed yet; last seal 1:")
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


def test_wrong_use_is_said_in_a_line(settings: Settings) -> None:
    assert "is not NUMBER:MAC" in verify(settings, "--seal", "12").stderr
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
