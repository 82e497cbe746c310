"""The api that tells its greenlets, with channels that nobody holds given up after a second."""

from __future__ import annotations

import api.gateway.hub
import benchmarks.counted_api  # noqa: F401 - it counts
from api.wsgi import app

api.gateway.hub.LINGER_S = 1.0

__all__ = ["app"]
