"""A Postgres server of our own: the programs of a package, our `initdb`, passwords from the start."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import psycopg2

from lanewise.embedded.binaries import postgres_bin, server_account
from lanewise.embedded.server import EmbeddedServer
from lanewise.ports import LOOPBACK
from lanewise.process import Account, ProcessSpec, run_to_end
from lanewise.secrets import ensure_secrets
from shared.errors import ConfigurationError

SUPERUSER = "postgres"
INIT_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 60.0
# The magic link needs no way through the folders above, which may be closed to the server's account.
DATA = "/proc/self/cwd" if sys.platform == "linux" else "."
ENV = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

SETTINGS = {
    "cluster_name": "lanewise",
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    "authentication_timeout": "5s",  # who stops while signing in holds a place that no limit of a role counts
    "max_logical_replication_workers": "0",
    "io_method": "sync",  # no reader processes: what a small machine reads is in memory
    "scram_iterations": "64",  # passwords of 256 random bits need no slow hash, and every sandbox connects anew
    # Statements and details would carry user data and passwords into the log.
    "log_min_error_statement": "panic",
    "log_error_verbosity": "terse",
    "log_checkpoints": "off",
}


class EmbeddedPostgres(EmbeddedServer):
    """Postgres with one superuser and one database, both called `postgres`; roles and schema come from migrations.

    Args:
        data_dir: see `EmbeddedServer`; the superuser's password is in its secrets.
    """

    name = "postgres"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._password = ensure_secrets(data_dir).postgres_password

    @property
    def admin_url(self) -> str:
        """The superuser's URL, with its password."""
        return f"postgresql://{SUPERUSER}:{self._password}@{LOOPBACK}:{self.port}/postgres"

    def prepare(self) -> ProcessSpec:
        """Makes the cluster if there is none.

        Raises:
            ConfigurationError: no programs, or data of another major version.
            StartError: `initdb` failed, or another server runs in the folder.
        """
        programs = postgres_bin()
        account = server_account(self.folder)
        if not self.folder.exists():
            self._initdb(programs / "initdb", account)
        self._check_version(programs)
        lock = self._take_lock()
        (self.folder / "postmaster.pid").unlink(missing_ok=True)  # stale, for we hold the lock; its pid may live anew
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        return ProcessSpec(
            name=self.name,
            argv=(str(programs / "postgres"), "-D", DATA, "-p", str(self.port), *settings),
            env=ENV,
            log=self.log,
            cwd=self.folder,
            account=account,
            pass_fds=(lock,),
            stop_signal=signal.SIGINT,  # fast shutdown: ends sessions, writes a checkpoint
            death_signal=signal.SIGINT,
            stop_timeout_s=STOP_TIMEOUT_S,
        )

    def ready(self) -> bool:
        """Tells whether the superuser can log in."""
        try:
            psycopg2.connect(self.admin_url, connect_timeout=2).close()
        except psycopg2.OperationalError:
            return False
        return True

    def _initdb(self, program: Path, account: Account | None) -> None:
        """Makes the cluster beside its place and moves it there: a killed `initdb` leaves no half cluster."""
        new = self.folder.with_name("postgres.new")
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        with tempfile.TemporaryFile() as password:
            password.write(self._password.encode() + b"\n")
            password.flush()
            password.seek(0)
            if account is not None:
                os.chown(new, account.uid, account.gid)
                os.chown(password.fileno(), account.uid, account.gid)
            run_to_end(
                ProcessSpec(
                    name="initdb",
                    argv=(
                        *(str(program), "-D", DATA, "-U", SUPERUSER, "-A", "scram-sha-256"),
                        *(f"--pwfile=/dev/fd/{password.fileno()}", "-E", "UTF8", "--locale=C", "--no-instructions"),
                        *("--locale-provider=builtin", "--builtin-locale=C.UTF-8"),
                        *("-c", f"scram_iterations={SETTINGS['scram_iterations']}"),
                    ),
                    env=ENV,
                    log=self.log,
                    cwd=new,
                    account=account,
                    pass_fds=(password.fileno(),),
                ),
                INIT_TIMEOUT_S,
            )
        new.rename(self.folder)

    def _check_version(self, programs: Path) -> None:
        theirs = (self.folder / "PG_VERSION").read_text().strip()
        ours = programs.parent.name.removeprefix("pginstall")
        if theirs != ours:
            raise ConfigurationError(
                f"{self.folder} was made by Postgres {theirs}, this one is {ours}: give another --data-dir, or move "
                "the data with pg_dump"
            )
