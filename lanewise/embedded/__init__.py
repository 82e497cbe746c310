"""Real Postgres and Redis servers from packages, for `lanewise up` and for tests: no root, no container needed."""

from lanewise.embedded.postgres import EmbeddedPostgres
from lanewise.embedded.redis import EmbeddedRedis

__all__ = ["EmbeddedPostgres", "EmbeddedRedis"]
