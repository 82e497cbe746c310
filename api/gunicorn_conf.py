"""gunicorn's settings. One gevent worker a process: `lanewise up --apis N` and compose start more processes."""

from __future__ import annotations

import gc
import sys
from typing import Any

from gunicorn.glogging import Logger

from shared import linux, logs
from shared.errors import ConfigurationError
from shared.settings import get_settings

KEEPALIVE_S = 75  # longer than a load balancer keeps its idle connections, so that it never sends into a closed one
# A wait on Postgres ends at the server after statement_timeout (30 s); this is for a server that is no longer there.
QUERY_TIMEOUT_S = 40
CONNECT_TIMEOUT_S = 5
REST_CONNECTIONS = 5000  # beside those that follow: they are never to keep requests out

try:
    settings = get_settings()
except ConfigurationError as error:
    sys.exit(f"lanewise api: {error.message}")


class JsonLogger(Logger):  # type: ignore[misc] # published without types
    """gunicorn's own words as lines of our log; no access log."""

    def setup(self, cfg: Any) -> None:
        """Called in the main process and again in each worker."""
        del cfg
        logs.configure(settings.log_level, "api")
        self.error_log.propagate = True


wsgi_app = "api.wsgi:app"
worker_class = "api.gunicorn_worker.Worker"
workers = 1
worker_connections = settings.gateway_sockets + REST_CONNECTIONS
backlog = 2048
keepalive = KEEPALIVE_S
graceful_timeout = max(5, int(settings.drain_s))
timeout = 60
logger_class = JsonLogger
accesslog = None
control_socket_disable = True
forwarded_allow_ips = ",".join(settings.trusted_proxies) or "127.0.0.1,::1"


def on_starting(_server: Any) -> None:
    """Closes what this process knows to others of its account: sandboxes may be among them."""
    linux.hide_memory()


def post_fork(server: Any, _worker: Any) -> None:
    """Ties the worker's life to the main process; makes psycopg2 cooperative: it waits in gevent's loop, with an end.

    A worker whose main process was killed would notice by polling, and then drain beside its successor.
    """
    linux.die_with_parent(server.pid)
    linux.hide_memory()
    gc.disable()  # importing makes little garbage: to look for it takes a sixth of the start
    from psycogreen.gevent import gevent_wait_callback  # noqa: PLC0415 - not in the main process
    from psycopg2 import OperationalError, extensions  # noqa: PLC0415

    def wait(connection: Any) -> None:
        connecting = connection.status == extensions.STATUS_SETUP
        timeout_s = CONNECT_TIMEOUT_S if connecting else QUERY_TIMEOUT_S
        try:
            gevent_wait_callback(connection, timeout=timeout_s)
        except TimeoutError:  # psycopg2 closes the connection then
            raise OperationalError(f"the server did not answer within {timeout_s} s") from None

    extensions.set_wait_callback(wait)


def post_worker_init(_worker: Any) -> None:
    """The application is there, and stays: collections need not look at it."""
    gc.freeze()
    gc.enable()


def worker_exit(_server: Any, _worker: Any) -> None:
    """Closes what is open, if it came that far."""
    wsgi = sys.modules.get("api.wsgi")
    if wsgi is not None:
        from api.state import EXTENSION  # noqa: PLC0415 - not in the main process

        wsgi.app.extensions[EXTENSION].close()
