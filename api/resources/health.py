"""`/healthz` and `/readyz`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import Any

from flask import Blueprint, Response
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from api.models import Health, Readiness
from api.operations import json_response, operation
from api.state import Api, api
from shared.catalogue import live_workers
from shared.errors import LanewiseError
from shared.migrate import head_revision
from shared.redis import RedisError

bp = Blueprint("health", __name__)
NOT_MIGRATED = "its schema is older than this code: run `lanewise migrate`"
_REVISION = text("SELECT version_num FROM lanewise.alembic_version")


@bp.get("/healthz")
@operation("Tell whether the process answers", {200: Health}, scope=None)
def healthz() -> Response:
    """Needs nothing but the process itself."""
    return json_response({"status": "ok"})


@bp.get("/readyz")
@operation("Tell whether runs can be taken, each dependency by name", {200: Readiness, 503: Readiness}, scope=None)
def readyz() -> Response:
    """Without Postgres nothing is served; without Redis or a worker runs are taken and start later."""
    state = api()
    checks = {"postgres": _postgres, "redis": _redis, "worker": _worker}
    found = {name: _timed(check, state) for name, check in checks.items()}
    status = _summary(state, {name for name, item in found.items() if item["status"] != "ok"})
    return json_response({"status": status, "dependencies": found}, 200 if status in {"ok", "degraded"} else 503)


def _summary(state: Api, away: set[str]) -> str:
    if state.draining:
        return "draining"
    if "postgres" in away:
        return "unavailable"
    return "degraded" if away else "ok"


def _timed(check: Callable[[Api], str | None], state: Api) -> dict[str, Any]:
    began = time.monotonic()
    try:
        problem = check(state)
    except (LanewiseError, RedisError, OSError):
        problem = "does not answer"
    except ProgrammingError:
        problem = NOT_MIGRATED
    latency_ms = round((time.monotonic() - began) * 1000, 2)
    return {"status": "away" if problem else "ok", "latency_ms": latency_ms, "detail": problem}


def _postgres(state: Api) -> str | None:
    with state.services.database.system_session() as session:
        present = session.scalar(_REVISION)
    # Revisions are numbered; a higher one than ours is fine: migrations only extend what running code uses.
    behind = str(present) < _needed()
    return NOT_MIGRATED if behind else None


def _redis(state: Api) -> str | None:
    state.services.redis.ping()
    return None


def _worker(state: Api) -> str | None:
    with state.services.database.system_session() as session:
        live = live_workers(session, state.services.settings.lease_s)
    return None if live else "no worker is running"


@cache
def _needed() -> str:
    return head_revision()
