"""The Flask application: state, hooks, error answers, and every route declared."""

from __future__ import annotations

import time
from http import HTTPStatus

import structlog
from flask import Flask, Response, g, request
from werkzeug.routing import BaseConverter

from api import problems
from api.gateway import routes as gateway
from api.operations import Operation
from api.resources import (
    admin,
    agents,
    artifacts,
    audit,
    console,
    docs,
    documents,
    health,
    me,
    metrics,
    passages,
    runs,
    slots,
    threads,
    tickets,
)
from api.state import EXTENSION, Api, api
from shared.context import RESERVED_ENDINGS
from shared.ids import new_id
from shared.settings import Settings

BLUEPRINTS = (
    health.bp, agents.bp, runs.bp, artifacts.bp, threads.bp, documents.bp, passages.bp, me.bp, tickets.bp, metrics.bp,
    docs.bp, console.bp, admin.bp, audit.bp, slots.bp, gateway.bp,
)  # fmt: skip
WEBSOCKETS = frozenset({"gateway.stream"})
NO_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"


class UserConverter(BaseConverter):
    """The id of a user in a path, which may have slashes; but `DELETE …/alice/limits` is a slip, and deletes nobody."""

    regex = r"[\s\S]+?" + "".join(f"(?<!{ending})" for ending in RESERVED_ENDINGS)
    part_isolating = False


def create_app(settings: Settings) -> Flask:
    """Returns the application; nothing is connected before the first request.

    Raises:
        ConfigurationError: the settings name a key file that cannot be used.
    """
    app = Flask("lanewise", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False
    app.url_map.converters["user"] = UserConverter
    app.extensions[EXTENSION] = Api.open(settings)
    problems.install(app)
    app.before_request(_begin)
    app.after_request(_end)
    for blueprint in BLUEPRINTS:
        app.register_blueprint(blueprint)
    _refuse_undeclared(app)
    return app


def _refuse_undeclared(app: Flask) -> None:
    """A route that does not say who may call it must not be served."""
    for endpoint, view in app.view_functions.items():
        if not isinstance(view, Operation) and endpoint not in WEBSOCKETS:
            raise TypeError(f"the route {endpoint} is not declared with api.operations.operation")


def _begin() -> None:
    g.began = time.perf_counter()
    g.correlation_id = new_id()
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(correlation_id=g.correlation_id)


def _end(response: Response) -> Response:
    headers = response.headers
    headers["X-Content-Type-Options"] = "nosniff"
    headers["X-Correlation-ID"] = g.correlation_id
    headers["Referrer-Policy"] = "no-referrer"
    headers.setdefault("Content-Security-Policy", NO_CONTENT_POLICY)
    headers.setdefault("Cache-Control", "no-store")
    if response.status_code == HTTPStatus.NO_CONTENT:
        del headers["Content-Type"]
    if request.endpoint not in WEBSOCKETS:
        _count(response)
    return response


def _count(response: Response) -> None:
    route = request.url_rule.rule if request.url_rule is not None else "(none)"
    method = request.method if request.method in {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"} else "(other)"
    state = api()
    state.metrics.requests.labels(method, route, response.status_code).inc()
    state.metrics.request_seconds.labels(route).observe(time.perf_counter() - g.began)
