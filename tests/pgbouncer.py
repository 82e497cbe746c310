"""A PgBouncer in front of the tests' Postgres, with the settings of docs/pgbouncer.ini."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg2
import sqlalchemy as sa

from lanewise.embedded.binaries import server_account
from lanewise.ports import free_port
from lanewise.process import Process, ProcessSpec, wait_until
from shared.models import RUN, SERVICE
from tests.services import Servers, missing, server_folder

DOCUMENTED = Path(__file__).parents[1] / "docs" / "pgbouncer.ini"
START_S = 10.0


@contextmanager
def pgbouncer(servers: Servers, database: str, **changes: object) -> Iterator[int]:
    """Runs one until the end of the block; yields its port.

    Args:
        changes: settings that are to be other than the documented ones.
    """
    program = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
    if program is None:
        missing("no pgbouncer on the PATH (Debian: apt-get install pgbouncer)")
    port = free_port()
    place = {"listen_port": port, database: f"host=127.0.0.1 port={servers.postgres.port} dbname={database}"}
    with server_folder() as folder:
        (folder / "pgbouncer.ini").write_text(configuration(database, place | changes))
        (folder / "userlist.txt").write_text(f'"{SERVICE}" "password"\n"{RUN}" "password"\n')
        account = server_account(folder / "none")
        if account is not None:
            os.chown(folder, account.uid, account.gid)
        process = Process(
            ProcessSpec(
                name="pgbouncer",
                argv=(program, "pgbouncer.ini"),
                env={},
                log=folder / "pgbouncer.log",
                cwd=folder,
                account=account,
            )
        )
        try:
            url = through(servers.url(database, RUN), port)
            assert wait_until(lambda: _answers(url), START_S), process.last_lines()
            yield port
        finally:
            process.kill()


def configuration(database: str, changes: dict[str, object]) -> str:
    """Returns the documented file for another database, with other values of settings that it has."""
    text = re.sub(r"^lanewise =", f"{database} =", DOCUMENTED.read_text(), flags=re.MULTILINE)
    for name, value in changes.items():
        text, found = re.subn(rf"^{name} =.*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert found == 1, name
    return text


def through(url: str, port: int) -> str:
    """Returns a URL that leads through the pooler."""
    return sa.make_url(url).set(port=port).render_as_string(hide_password=False)


def _answers(url: str) -> bool:
    try:
        psycopg2.connect(url, connect_timeout=2).close()
    except psycopg2.OperationalError:
        return False
    return True
