"""`/`: the console, a page of plain files that talks to the service as any other client does."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from flask import Blueprint, Response, request

from api.operations import operation
from shared.errors import NotFoundError

bp = Blueprint("console", __name__)
# Nothing is ever made of text but text: `trusted-types 'none'` has the browser refuse whatever would parse some.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
PAGE = "index.html"
CLIENT = "lanewise.js"
_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True)
class File:
    """A file of the console."""

    content: bytes
    content_type: str
    etag: str


@bp.get("/")
@operation("Open the console", {200: "text/html", 304: None}, scope=None)
def page() -> Response:
    """Where a person lands first; it signs in with a token of theirs."""
    return _answer(PAGE)


@bp.get("/console/<file_name>")
@operation("Get a file of the console", {200: "*/*", 304: None}, scope=None, errors=(NotFoundError,))
def file(file_name: str) -> Response:
    """A script, the style or the icon: the same for everybody."""
    if file_name == PAGE:
        raise NotFoundError("no such file")
    return _answer(file_name)


@bp.get("/lanewise.js")
@operation("Get the JavaScript client", {200: "text/javascript", 304: None}, scope=None)
def client() -> Response:
    """A module without dependencies, for pages of your own and for Node."""
    return _answer(CLIENT)


def _answer(name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise NotFoundError("no such file")
    response = Response(
        found.content,
        content_type=found.content_type,
        headers={"Content-Security-Policy": POLICY, "Cache-Control": "no-cache"},
    )
    response.set_etag(found.etag)
    response.make_conditional(request)
    return response


@cache
def _files() -> dict[str, File]:
    """Returns all there is to serve, by name: what a request names is looked up, never opened."""
    found = {}
    for item in (files("api") / "console").iterdir():
        kind = _TYPES.get(item.name.rpartition(".")[2])
        if kind is not None:
            content = item.read_bytes()
            found[item.name] = File(content, kind, hashlib.sha256(content).hexdigest()[:32])
    return found
