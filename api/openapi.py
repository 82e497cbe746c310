"""The OpenAPI 3.1 document, made from the routes' declarations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from flask import Flask
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema
from werkzeug.routing import Rule

from api import models
from api.operations import Content, Operation
from api.problems import CONTENT_TYPE
from shared.errors import (
    BadRequestError,
    ForbiddenError,
    InvalidError,
    LanewiseError,
    QuotaError,
    RequestTimeoutError,
    TooLargeError,
    UnauthorizedError,
    UnavailableError,
    UnsupportedMediaTypeError,
)

_REF = "#/components/schemas/{model}"
_PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>")
_PROBLEM = {CONTENT_TYPE: {"schema": {"$ref": _REF.format(model="Problem")}}}
_LOCATION = {"description": "where it is from now on", "required": True, "schema": {"type": "string"}}
_RETRY = {"Retry-After": {"description": "seconds", "required": True, "schema": {"type": "integer", "minimum": 1}}}
_CHALLENGE = {"WWW-Authenticate": {"required": True, "schema": {"const": "Bearer"}}}
_ERROR_HEADERS = {UnauthorizedError.status: _CHALLENGE, QuotaError.status: _RETRY, UnavailableError.status: _RETRY}
_TEXT = {"schema": {"type": "string"}}
_DESCRIPTION = "Runs agents for many users at once. Every call but the open ones takes a bearer token."


def document(app: Flask) -> dict[str, Any]:
    """Returns the document for all declared routes of the app."""
    routes = list(_routes(app))
    paths: dict[str, Any] = {}
    for rule, method, operation in routes:
        path = _PARAMETER.sub(r"{\1}", rule.rule)
        paths.setdefault(path, {})[method] = _operation(rule, operation)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Lanewise", "version": version("lanewise"), "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": _schemas([operation for _, _, operation in routes]),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _routes(app: Flask) -> Iterator[tuple[Rule, str, Operation]]:
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        if isinstance(view, Operation):
            for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
                yield rule, method.lower(), view


def _operation(rule: Rule, operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {
        "operationId": rule.endpoint.replace(".", "_"),
        "tags": [rule.endpoint.partition(".")[0]],
        "summary": operation.summary,
        "description": operation.view.__doc__ or "",
        "responses": {**_answers(operation), **_errors(operation)},
    }
    parameters = [*_path_parameters(rule), *_query_parameters(operation), *_headers(operation)]
    if parameters:
        found["parameters"] = parameters
    if operation.body is not None:
        found["requestBody"] = {"required": operation.body_required, "content": _content(operation.body)}
    if operation.scope is not None:
        found["security"] = [{"bearer": []}]
    return found


def _answers(operation: Operation) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for status, answer in operation.answers.items():
        found[str(status)] = {"description": HTTPStatus(status).phrase}
        if operation.located:
            found[str(status)]["headers"] = {"Location": _LOCATION}
        if answer is not None:
            contents = answer if isinstance(answer, tuple) else (answer,)
            found[str(status)]["content"] = {
                kind: schema for content in contents for kind, schema in _content(content).items()
            }
    return found


def _errors(operation: Operation) -> dict[str, Any]:
    kinds: set[type[LanewiseError]] = set(operation.errors)
    if operation.scope is not None:
        kinds |= {UnauthorizedError, ForbiddenError, UnavailableError}
    if operation.query is not None:
        kinds |= {BadRequestError, InvalidError}
    if operation.body is not None:
        kinds |= {BadRequestError, TooLargeError, QuotaError, RequestTimeoutError}
    if isinstance(operation.body, type):
        kinds |= {InvalidError, UnsupportedMediaTypeError}
    found: dict[str, Any] = {}
    for status in sorted({kind.status for kind in kinds}):
        if status not in operation.answers:
            found[str(status)] = {"description": HTTPStatus(status).phrase, "content": _PROBLEM}
            if status in _ERROR_HEADERS:
                found[str(status)]["headers"] = _ERROR_HEADERS[status]
    return found


def _content(answer: Content) -> dict[str, Any]:
    if isinstance(answer, str):
        return {answer: _TEXT if answer.startswith("text/") else {"schema": {}}}
    return {"application/json": {"schema": {"$ref": _REF.format(model=answer.__name__)}}}


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
        for name in _PARAMETER.findall(rule.rule)
    ]


def _query_parameters(operation: Operation) -> list[dict[str, Any]]:
    if operation.query is None:
        return []
    schema = operation.query.model_json_schema(ref_template=_REF)
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": _plain(item)}
        for name, item in schema["properties"].items()
    ]


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a parameter's schema without its null: a parameter is left out instead."""
    kinds = [kind for kind in schema.get("anyOf", ()) if kind.get("type") != "null"]
    rest = {key: value for key, value in schema.items() if key not in {"anyOf", "title"}}
    if kinds:
        rest |= kinds[0]
        rest.pop("default", None)
    return rest


def _headers(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "header", "required": False, "description": header.description, "schema": header.schema}
        for name, header in operation.request_headers.items()
    ]


def _schemas(operations: list[Operation]) -> dict[str, Any]:
    wanted: dict[type[BaseModel], JsonSchemaMode] = {models.Problem: "serialization", models.Event: "serialization"}
    for operation in operations:
        for answer in operation.answers.values():
            for content in answer if isinstance(answer, tuple) else (answer,):
                if isinstance(content, type):
                    wanted[content] = "serialization"
        if isinstance(operation.body, type):
            wanted[operation.body] = "validation"
    _, schema = models_json_schema(list(wanted.items()), ref_template=_REF)
    definitions: dict[str, Any] = schema["$defs"]
    return definitions
