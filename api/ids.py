"""Ids in paths and bodies, and cursors. What cannot be an id of ours is not found: it never reaches the database."""

from __future__ import annotations

import base64
import binascii
import re

from shared.errors import BadRequestError, NotFoundError

_ID = re.compile(r"[0-9a-f]{32}")


def known_id(value: str, noun: str) -> str:
    """Returns the id.

    Raises:
        NotFoundError: it is not of the form that we give.
    """
    if _ID.fullmatch(value) is None:
        raise NotFoundError(f"no such {noun}")
    return value


def make_cursor(last: str) -> str:
    """Returns the cursor after an item. It need not be secret or signed: every list is bound to its user anyway."""
    return base64.urlsafe_b64encode(last.encode()).decode().rstrip("=")


def read_cursor(cursor: str | None) -> str | None:
    """Returns the last item's key, None for the first page.

    Raises:
        BadRequestError: it is not a cursor of ours.
    """
    if cursor is None:
        return None
    try:
        last = base64.b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        text = last.decode()
    except (UnicodeError, binascii.Error, ValueError):
        raise BadRequestError("the cursor is not one of ours") from None
    if not text or "\0" in text or make_cursor(text) != cursor:
        raise BadRequestError("the cursor is not one of ours")
    return text
