"""Repairs of many things, each for itself: what stands against one of them does not keep the others from it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import structlog

from shared.errors import BusyError, UnavailableError

LOCK_TIMEOUT_S = 0.5  # a locked row is left to the next sweep: the others are not to wait long for it

log = structlog.get_logger(__name__)
Item = TypeVar("Item")
Result = TypeVar("Result")


def one_by_one(items: Iterable[Item], repair: Callable[[Item], Result]) -> list[Result]:
    """Makes a repair for each of the items and logs those that fail; returns the results of the others.

    Raises:
        UnavailableError: the database is away; there is no use in going on.
    """
    results: list[Result] = []
    for item in items:
        try:
            results.append(repair(item))
        except BusyError:
            log.warning("a repair is left to the next sweep: somebody holds its rows", repair=_name(repair))
        except UnavailableError:
            raise
        except Exception:
            log.exception("a repair of one of many failed", repair=_name(repair))
    return results


def _name(repair: Callable[..., object]) -> str:
    return str(getattr(getattr(repair, "func", repair), "__name__", ""))
