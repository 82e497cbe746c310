"""`/v1/agents`."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, Response

from api.models import Agents
from api.operations import json_response, operation
from api.state import api
from shared.models import Agent
from shared.tokens import Identity

bp = Blueprint("agents", __name__)


@bp.get("/v1/agents")
@operation("List the agents that running workers have", {200: Agents})
def list_agents(identity: Identity) -> Response:
    """The same for every user."""
    del identity
    return json_response({"items": [_view(agent) for agent in api().catalogue.all().values()]})


def _view(agent: Agent) -> dict[str, Any]:
    return {
        "name": agent.name,
        "description": agent.description,
        "input_schema": agent.input_schema,
        "queue": agent.queue,
        "time_limit_s": agent.time_limit_s,
        "max_attempts": agent.max_attempts,
    }
