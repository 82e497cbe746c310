"""A Redis server of our own: the one on the PATH if it is new enough, else one from a package."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from lanewise.embedded.binaries import redis_program
from lanewise.embedded.server import EmbeddedServer
from lanewise.ports import LOOPBACK
from lanewise.process import ProcessSpec
from lanewise.secrets import ensure_secrets

READY = b"+OK\r\n+PONG\r\n"  # else a refusal, of the password or while the data is being read
PATIENCE_S = 2.0


class EmbeddedRedis(EmbeddedServer):
    """Redis with a password, an append-only file and `noeviction`.

    Args:
        data_dir: see `EmbeddedServer`; the password is in its secrets.
    """

    name = "redis"

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._password = ensure_secrets(data_dir).redis_password

    @property
    def url(self) -> str:
        """The URL of database 0, with the password."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

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
            argv=(str(program), "-"),  # the configuration comes through stdin: it holds the password
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            log=self.log,
            cwd=self.folder,
            stdin=self._configuration().encode(),
            pass_fds=(self._take_lock(),),
            # Its parent's death may kill it: what it has answered is in the kernel's hands already.
        )

    def ready(self) -> bool:
        """Tells whether the server answers and has read its data."""
        answer = b""
        try:
            with socket.create_connection((LOOPBACK, self.port), timeout=PATIENCE_S) as connection:
                # The client library would be all that `lanewise up` needs it for, and takes a fifth of its start.
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                while answer.count(b"\n") < READY.count(b"\n") and (chunk := connection.recv(4096)):
                    answer += chunk
        except OSError:
            return False
        return answer == READY

    def _configuration(self) -> str:
        return "\n".join(
            (
                f"bind {LOOPBACK}",
                f"port {self.port}",
                f"requirepass {self._password}",
                "databases 16",
                "maxmemory-policy noeviction",
                "appendonly yes",
                'save ""',
                "",
            )
        )
