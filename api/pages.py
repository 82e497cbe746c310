"""Pages of lists."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from sqlalchemy import Select, Text, and_, cast, func, select
from sqlalchemy.orm import Session

from api.ids import known_id, make_cursor, read_cursor
from shared.errors import BadRequestError, NotFoundError
from shared.models import Run, Thread

T = TypeVar("T")
MAX_PAGE_BYTES = 8 * 1024 * 1024  # inputs and outputs; the first run of a page comes whatever its size
_NUMBER = re.compile(r"[0-9]{1,9}")


def page(found: Sequence[T], limit: int) -> tuple[Sequence[T], bool]:
    """Returns the items of a page and whether more follow.

    Args:
        found: what a query for one more than `limit` gave.
    """
    return found[:limit], len(found) > limit


def before_cursor(model: type[Run | Thread], query: Select[Any], cursor: str | None) -> Select[Any]:
    """Returns the query for what is older than the cursor; ids sort by the time they were made.

    Raises:
        BadRequestError: the cursor is not one of ours.
    """
    last = read_cursor(cursor)
    if last is None:
        return query
    try:
        return query.where(model.id < known_id(last, "item"))
    except NotFoundError:
        raise BadRequestError("the cursor is not one of ours") from None


def newest_runs(session: Session, query: Select[Any], limit: int) -> tuple[list[Run], bool]:
    """Returns the newest runs, and whether more follow. The page ends early where it would grow beyond 8 MiB.

    Args:
        query: for runs of one user, without an order.
    """
    size = func.octet_length(cast(Run.input, Text)) + func.coalesce(func.octet_length(cast(Run.output, Text)), 0)
    found = query.with_only_columns(Run.user_id, Run.id, size.label("size")).order_by(Run.id.desc()).limit(limit + 1)
    sized = found.subquery()
    before = func.sum(sized.c.size).over(order_by=sized.c.id.desc(), rows=(None, -1))
    marked = select(sized, func.coalesce(before, 0).label("before"), func.count().over().label("total")).subquery()
    chosen = (
        select(Run, marked.c.total)
        .join(marked, and_(Run.user_id == marked.c.user_id, Run.id == marked.c.id))
        .where(marked.c.before < MAX_PAGE_BYTES)
        .order_by(Run.id.desc())
        .limit(limit)
    )
    rows = session.execute(chosen).all()
    return [row[0] for row in rows], bool(rows) and rows[0].total > len(rows)


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
