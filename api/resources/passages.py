"""`/v1/documents/{name}/passages/{number}`: what a citation points to."""

from __future__ import annotations

import re

from flask import Blueprint, Response
from sqlalchemy import select

from api.models import Passage
from api.operations import json_response, operation
from api.state import api
from shared import models
from shared.errors import NotFoundError
from shared.tokens import Identity

bp = Blueprint("passages", __name__, url_prefix="/v1/documents/<name>/passages")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")  # 0 is no passage, but the index's record of itself


@bp.get("/<number>")
@operation("Get a passage that research cited", {200: Passage}, errors=(NotFoundError,))
def get(identity: Identity, name: str, number: str) -> Response:
    """Exactly as it was quoted, if `sha256` is the citation's; another one tells that the document was replaced."""
    of = models.Passage
    if _NUMBER.fullmatch(number) is None or "\0" in name:
        raise NotFoundError("no such passage")
    own = select(of).where(of.user_id == identity.user_id, of.document == name, of.number == int(number))
    with api().services.database.user_session(identity.user_id) as session:
        passage = session.scalars(own).one_or_none()
    if passage is None:
        raise NotFoundError("no such passage")
    return json_response(
        {
            "document": passage.document,
            "sha256": passage.sha256,
            "passage": passage.number,
            "heading": passage.heading,
            "page": passage.page,
            "start": passage.start_char,
            "end": passage.end_char,
            "text": passage.text,
        }
    )
