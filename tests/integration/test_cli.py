from __future__ import annotations

from click.testing import CliRunner

from lanewise.cli import main
from shared.migrate import head_revision
from shared.models import RUN, SERVICE
from tests.services import Servers


def test_migrate_makes_an_empty_database_ready_and_may_be_repeated(servers: Servers) -> None:
    with servers.new_database("template1") as database:
        environment = {
            "LANEWISE_OWNER_DATABASE_URL": servers.url(database),
            "LANEWISE_DATABASE_URL": servers.url(database, SERVICE),
            "LANEWISE_RUN_DATABASE_URL": servers.url(database, RUN),
            "LANEWISE_SECRET_KEY": "s" * 32,
        }
        for _ in range(2):
            done = CliRunner().invoke(main, ["migrate"], env=environment)
            # The server has databases of other tests as well.
            told = [line for line in done.stderr.splitlines() if "connect to the database" not in line]
            assert (done.exit_code, told) == (0, [])
            assert done.stdout == f"the database is at revision {head_revision()}\n"
        servers.execute("SELECT * FROM lanewise.runs", database=database)
