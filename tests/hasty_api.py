"""The api with less patience and a quicker sweep: what takes it many seconds is over in one."""

from __future__ import annotations

import api.bodies
import api.gateway.hub
import api.gateway.socket
import api.gunicorn_worker
from api.wsgi import app

api.gateway.socket.WRITE_DEADLINE_S = 0.5
api.bodies.PATIENCE_S = 0.5
api.gunicorn_worker.REST_S = 0.5
api.gateway.hub.SWEEP_S = 0.1

__all__ = ["app"]
