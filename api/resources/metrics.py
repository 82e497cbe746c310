"""`/metrics`."""

from __future__ import annotations

from flask import Blueprint, Response

from api.operations import operation
from api.state import api

bp = Blueprint("metrics", __name__)


@bp.get("/metrics")
@operation("Get the process's metrics for Prometheus", {200: "text/plain"}, scope=None)
def metrics() -> Response:
    """No user's value is in them."""
    found = api().metrics
    return Response(found.render(), content_type=found.content_type)
