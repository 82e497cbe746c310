"""`/openapi.json` and the page that shows it."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files

from flask import Blueprint, Response, current_app

from api.openapi import document
from api.operations import operation

bp = Blueprint("docs", __name__)
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {"html": "text/html; charset=utf-8", "css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}


@bp.get("/openapi.json")
@operation("Get this document", {200: "application/json"}, scope=None)
def openapi() -> Response:
    """OpenAPI 3.1, made from the code."""
    return Response(_document(current_app.import_name), content_type="application/json")


@bp.get("/docs")
@operation("Read the API's documentation", {200: "text/html"}, scope=None)
def docs() -> Response:
    """Shows /openapi.json; asks nobody else for anything."""
    return _file("docs.html")


@bp.get("/docs/page.js")
@operation("Get the script of the documentation", {200: "text/javascript"}, scope=None)
def script() -> Response:
    """Our own; nothing else runs on the page."""
    return _file("docs.js")


@bp.get("/docs/page.css")
@operation("Get the style of the documentation", {200: "text/css"}, scope=None)
def style() -> Response:
    """Our own, too."""
    return _file("page.css")


@cache
def _document(_app: str) -> str:
    return json.dumps(document(current_app._get_current_object()))  # type: ignore[attr-defined] # noqa: SLF001


@cache
def _read(name: str) -> str:
    return (files("api") / "pages_static" / name).read_text()


def _file(name: str) -> Response:
    kind = _TYPES[name.rpartition(".")[2]]
    return Response(_read(name), content_type=kind, headers={"Content-Security-Policy": PAGE_POLICY})
