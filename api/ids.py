"""Ids in paths and bodies: what cannot be an id of ours is not found, and never reaches the database."""

from __future__ import annotations

import re

from shared.errors import NotFoundError

_ID = re.compile(r"[0-9a-f]{32}")


def is_id(value: str) -> bool:
    """Tells whether it is of the form that we give."""
    return _ID.fullmatch(value) is not None


def known_id(value: str, noun: str) -> str:
    """Returns the id.

    Raises:
        NotFoundError: it is not of the form that we give.
    """
    if not is_id(value):
        raise NotFoundError(f"no such {noun}")
    return value
