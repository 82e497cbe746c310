"""Pages of lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Select

from api.ids import known_id, make_cursor, read_cursor
from api.models import PageQuery
from shared.errors import BadRequestError, NotFoundError
from shared.models import Run, Thread

T = TypeVar("T")
_NUMBER = re.compile(r"[0-9]{1,9}")


def page(found: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """Returns the items of a page and whether more follow.

    Args:
        found: what a query for one more than `limit` gave.
    """
    return found[:limit], len(found) > limit


def newest_first(model: type[Run | Thread], query: Select[Any], asked: PageQuery) -> Select[Any]:
    """Returns the query for one page and one item more; ids sort by the time they were made.

    Raises:
        BadRequestError: the cursor is not one of ours.
    """
    last = read_cursor(asked.cursor)
    if last is not None:
        try:
            query = query.where(model.id < known_id(last, "item"))
        except NotFoundError:
            raise BadRequestError("the cursor is not one of ours") from None
    return query.order_by(model.id.desc()).limit(asked.limit + 1)


def id_cursor(items: Sequence[Run] | Sequence[Thread]) -> str:
    """Returns the cursor after a page."""
    return make_cursor(items[-1].id)


def number_cursor(cursor: str | None) -> int:
    """Returns the number that a cursor is, 0 for the first page.

    Raises:
        BadRequestError: it is not a number.
    """
    if cursor is None:
        return 0
    if _NUMBER.fullmatch(cursor) is None:
        raise BadRequestError("the cursor is not one of ours")
    return int(cursor)
