"""A Redis server of our own: the one on the PATH if it is new enough, else one from a package."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path

from lanewise.embedded.binaries import redis_program, redis_version
from lanewise.embedded.server import EmbeddedServer
from lanewise.ports import LOOPBACK
from lanewise.process import ProcessSpec
from lanewise.redis_acl import BROKER_DATABASE, USERS, acl_lines
from lanewise.secrets import ensure_secrets

READY = b"+OK\r\n+PONG\r\n"  # else a refusal, of the password or while the data is being read
PATIENCE_S = 2.0


class EmbeddedRedis(EmbeddedServer):
    """Redis with a user for each role, an append-only file and `noeviction`.

    Args:
        data_dir: see `EmbeddedServer`; the passwords are in its secrets.

    Attributes:
        deployment: whose keys the users may touch, from the next start on.
    """

    name = "redis"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.deployment = "default"
        secrets = ensure_secrets(data_dir)
        self._admin_password = secrets.redis_password
        self._passwords = {user: getattr(secrets, f"redis_{user}_password") for user in USERS}

    @property
    def admin_url(self) -> str:
        """The URL for one who may do everything. No process of a fleet has it."""
        return self._url("admin", self._admin_password)

    def url(self, user: str) -> str:
        """Returns the URL for one of the `USERS`; the broker has a database of its own."""
        return self._url(user, self._passwords[user], BROKER_DATABASE if user == "broker" else 0)

    def _url(self, user: str, password: str, database: int = 0) -> str:
        return f"redis://{user}:{password}@{LOOPBACK}:{self.port}/{database}"

    def prepare(self) -> ProcessSpec:
        """Makes the folder if there is none.

        Raises:
            ConfigurationError: no program.
            StartError: another server runs in the folder.
        """
        program = redis_program()
        self.folder.mkdir(mode=0o700, exist_ok=True)
        return ProcessSpec(
            name=self.name,
            argv=(str(program), "-"),  # the configuration comes through stdin: it holds the passwords
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            log=self.log,
            cwd=self.folder,
            stdin=self._configuration(redis_version(program)).encode(),
            pass_fds=(self._take_lock(),),
            # Its parent's death may kill it: what it has answered is in the kernel's hands already.
        )

    def ready(self) -> bool:
        """Tells whether the server answers and has read its data."""
        answer = b""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=PATIENCE_S) as connection:
                # The client library would be all that `lanewise up` needs it for, and takes a fifth of its start.
                connection.sendall(f"AUTH admin {self._admin_password}\r\nPING\r\n".encode())
                while answer.count(b"\n") < READY.count(b"\n") and (chunk := connection.recv(4096)):
                    answer += chunk
        except OSError:
            return False
        return answer == READY

    def _configuration(self, version: tuple[int, ...]) -> str:
        return "\n".join(
            (
                f"bind {LOOPBACK}",
                f"port {self.port}",
                *acl_lines(self.deployment, {user: _rule(word) for user, word in self._passwords.items()}, version),
                f"user admin reset on {_rule(self._admin_password)} ~* &* +@all",
                "databases 16",
                "maxmemory-policy noeviction",
                "appendonly yes",
                'save ""',
                "",
            )
        )


def _rule(password: str) -> str:
    # A server that does not understand a line writes it into its log.
    return f"#{hashlib.sha256(password.encode()).hexdigest()}"
