"""An operation: a view with what it takes, what it answers and who may call it, declared in one place.

The declaration does the work (authenticates, reads query and body) and describes it (`api.openapi`), so that the
document cannot differ from the code. A route without a declaration does not get into the app: see `api.app`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, TypeVar

from flask import Response, request
from pydantic import BaseModel, ValidationError

from api import bodies
from api.auth import ADMIN, authenticate, refused
from shared.errors import BadRequestError, InvalidError, LanewiseError, UnsupportedMediaTypeError
from shared.jsonvalue import clean_json

MAX_JSON_BYTES = 2 * 1024 * 1024  # an input of 256 KiB may arrive with every character escaped
MAX_ERRORS = 20

M = TypeVar("M", bound=BaseModel)
View = Callable[..., Response]
Content = type[BaseModel] | str  # a model: JSON; a string: that media type
Answer = Content | tuple[Content, ...] | None  # several: as the client prefers; None: no body


class Header(NamedTuple):
    """A header that a request may have."""

    description: str
    schema: Mapping[str, Any]


@dataclass(frozen=True)
class Operation:
    """A callable view. See `operation` for the fields."""

    view: View
    summary: str
    answers: Mapping[int, Answer]
    scope: str | None
    query: type[BaseModel] | None
    body: type[BaseModel] | str | None
    body_required: bool
    request_headers: Mapping[str, Header]
    located: bool
    errors: tuple[type[LanewiseError], ...]

    @property
    def __name__(self) -> str:
        return self.view.__name__

    def __call__(self, **arguments: Any) -> Response:
        """Answers a request."""
        if self.scope is None:
            return self._answer(arguments)
        identity = authenticate(self.scope)
        try:
            return self._answer({**arguments, "identity": identity})
        except Exception as error:
            if self.scope == ADMIN:  # what was done is recorded by the view, with the change
                refused(identity, error)
            raise

    def _answer(self, arguments: dict[str, Any]) -> Response:
        if self.query is not None:
            arguments["query"] = read_query(self.query)
        if not isinstance(self.body, type):
            return self.view(**arguments)
        with bodies.room(arguments["identity"].user_id, bodies.announced(MAX_JSON_BYTES)):
            return self.view(body=self._read_body(self.body), **arguments)

    def _read_body(self, model: type[BaseModel]) -> BaseModel:
        raw = bodies.read(MAX_JSON_BYTES)
        if not raw and not self.body_required:
            return model()
        if request.mimetype != "application/json":
            raise UnsupportedMediaTypeError("the body must be application/json")
        return check(model, parse_json(raw))


def operation(  # noqa: PLR0913 - one declaration, all of it named
    summary: str,
    answers: Mapping[int, Answer],
    *,
    scope: str | None = "runs",
    query: type[BaseModel] | None = None,
    body: type[BaseModel] | str | None = None,
    body_required: bool = True,
    request_headers: Mapping[str, Header] | None = None,
    located: bool = False,
    errors: tuple[type[LanewiseError], ...] = (),
) -> Callable[[View], Operation]:
    """Declares a view.

    Args:
        summary: one line for the document.
        answers: what it answers when all is well, by status.
        scope: the token must have it; the view gets `identity`. None: open to everybody.
        query: the view gets it as `query`; unknown and repeated names are refused.
        body: a model: the view gets it as `body`, if it has a scope; a media type: the view reads it itself.
        body_required: whether an empty body is refused; else it means the model's defaults.
        request_headers: further headers, by name.
        located: whether its answers have a `Location`.
        errors: what it may answer besides what follows from the rest.
    """

    def decorate(view: View) -> Operation:
        headers = request_headers or {}
        return Operation(view, summary, answers, scope, query, body, body_required, headers, located, errors)

    return decorate


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Returns a JSON answer."""
    text = json.dumps(body, separators=(",", ":"), ensure_ascii=False)
    return Response(text, status=status, headers=dict(headers or {}), content_type="application/json")


def parse_json(raw: bytes | str) -> Any:
    """Returns the value of strict UTF-8 JSON: no NaN, no infinity, no number of thousands of digits.

    Raises:
        BadRequestError: it is not.
    """
    try:
        return json.loads(raw if isinstance(raw, str) else raw.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        problem = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)[:200]
        raise BadRequestError(f"the body is not JSON: {problem}") from None


def check(model: type[M], value: Any) -> M:
    """Returns the value as a model.

    Raises:
        InvalidError: naming each bad field.
    """
    try:
        return model.model_validate(value)
    except ValidationError as error:
        problems = [
            {"field": ".".join(map(str, item["loc"])) or "body", "message": item["msg"]}
            for item in error.errors(include_input=False, include_url=False, include_context=False)[:MAX_ERRORS]
        ]
        problems = clean_json(problems)
        summary = "; ".join(f"{item['field']}: {item['message']}" for item in problems[:3])
        raise InvalidError(summary, errors=problems) from None


def read_query(model: type[M]) -> M:
    """Returns the query as a model.

    Raises:
        InvalidError: naming each bad, unknown or repeated parameter.
    """
    for name, values in request.args.lists():
        problem = "is given more than once" if len(values) > 1 else "contains the character U+0000"
        if len(values) > 1 or "\0" in values[0]:
            field = clean_json(name)
            raise InvalidError(f"{field} {problem}", errors=[{"field": field, "message": problem}])
    return check(model, request.args.to_dict())


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON value")
