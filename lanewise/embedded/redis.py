"""A Redis server of our own: the one on the PATH if it is new enough, else one from a package."""

from __future__ import annotations

import os
from pathlib import Path

import redis

from lanewise.embedded.binaries import redis_program
from lanewise.embedded.server import EmbeddedServer
from lanewise.ports import LOOPBACK
from lanewise.process import ProcessSpec
from lanewise.secrets import ensure_secrets


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
        try:
            with redis.Redis.from_url(self.url, socket_timeout=2, socket_connect_timeout=2) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

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
