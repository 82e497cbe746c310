"""`/v1/tickets`."""

from __future__ import annotations

from flask import Blueprint, Response

from api.gateway.tickets import TTL_S
from api.models import Ticket
from api.operations import json_response, operation
from api.state import api
from shared.errors import RateLimitedError
from shared.tokens import Identity

bp = Blueprint("tickets", __name__)


@bp.post("/v1/tickets")
@operation("Get a ticket for the WebSocket's hello", {201: Ticket}, errors=(RateLimitedError,))
def issue(identity: Identity) -> Response:
    """For one use, within half a minute."""
    api().rate.count_ticket(identity.user_id)
    return json_response({"ticket": api().tickets.issue(identity), "expires_in_s": TTL_S}, 201)
