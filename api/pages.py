"""Pages of lists, and the cursors between them."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import TypeVar

from api.ids import is_id
from shared.errors import BadRequestError

T = TypeVar("T")
_NUMBER = re.compile(r"[0-9]{1,9}")


def page(found: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """Returns the items of a page and whether more follow.

    Args:
        found: what a query for one more than `limit` gave.
    """
    return found[:limit], len(found) > limit


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


def read_id_cursor(cursor: str | None) -> str | None:
    """Returns the id in a cursor, None for the first page.

    Raises:
        BadRequestError: it is not a cursor of ours.
    """
    last = read_cursor(cursor)
    if last is not None and not is_id(last):
        raise BadRequestError("the cursor is not one of ours")
    return last


def read_number_cursor(cursor: str | None, fault: str = "the cursor is not one of ours") -> int:
    """Returns the number that a cursor is, 0 for the first page.

    Args:
        fault: what is said of something else.

    Raises:
        BadRequestError: it is not a number.
    """
    if cursor is None:
        return 0
    if _NUMBER.fullmatch(cursor) is None:
        raise BadRequestError(fault)
    return int(cursor)
