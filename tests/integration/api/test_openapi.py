"""The document that the code makes, held against what the code does."""

from __future__ import annotations

import re
from typing import Any

import httpx
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import CHECKS

from api.app import create_app
from api.models import Event, Run
from api.openapi import document
from shared.settings import load_settings
from tests.access import OPEN
from tests.integration.api.conftest import Fleet

# Right by the schema is not all: the agent must exist, a document's name must be one, a ticket needs nothing.
LEFT_OUT = ("positive_data_acceptance",)


# The document depends on the code alone: this app never connects to anything.
_app = create_app(load_settings({}, database_url="postgresql://127.0.0.1:1/none", secret_key="k" * 32))
with _app.app_context():
    schema = schemathesis.openapi.from_dict(document(_app))


@schema.parametrize()
@settings(
    max_examples=25,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=(Phase.explicit, Phase.generate),
)
def test_every_operation_answers_as_documented(case: schemathesis.Case[Any], fleet: Fleet) -> None:
    if case.path.endswith("/wait"):
        case.query = {**(case.query or {}), "timeout_s": "0"} if "timeout_s" not in (case.query or {}) else case.query
    if case.path == "/v1/admin/users/{user_id}" and _is_number((case.query or {}).get("timeout_s", "30")):
        case.query = {**(case.query or {}), "timeout_s": "0"}  # nobody leads this fleet: it would wait in vain
    token = fleet.server.token("fuzzer", scopes=("runs", "admin"))
    headers = {"Authorization": f"Bearer {token}"}
    excluded: list[Any] = [CHECKS.get_one(name) for name in LEFT_OUT]
    case.call_and_validate(base_url=fleet.server.url, headers=headers, excluded_checks=excluded, timeout=10)


def _is_number(value: Any) -> bool:
    try:
        return 0 <= float(value) <= 60
    except (TypeError, ValueError):
        return False


def test_the_document_names_every_route_and_every_open_one(app: Flask, anonymous: httpx.Client) -> None:
    found = anonymous.get("/openapi.json").json()
    assert found["openapi"].startswith("3.1")
    routes = {re.sub(r"<(?:user:)?(\w+)>", r"{\1}", rule.rule) for rule in app.url_map.iter_rules()}
    assert set(found["paths"]) == routes - {"/v1/stream"}
    for path, methods in found["paths"].items():
        for operation in methods.values():
            assert ("security" not in operation) == (path.replace("{", "<").replace("}", ">") in OPEN)
            assert operation["summary"]
            assert operation["description"]
    for definition in found["components"]["schemas"].values():
        Draft202012Validator.check_schema(definition)


def test_models_name_what_is_answered(fleet: Fleet, user: str) -> None:
    run = fleet.worker.start(user, fleet.server.submit(user))
    fleet.worker.finish(run)
    with fleet.server.client(user) as client:
        Run.model_validate(client.get(f"/v1/runs/{run.id}").json())
        for event in client.get(f"/v1/runs/{run.id}/events").json()["items"]:
            Event.model_validate(event)
