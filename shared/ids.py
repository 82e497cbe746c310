"""Identifiers: opaque strings that sort by the time they were made, so that indexes stay compact."""

from __future__ import annotations

import os
import time


def new_id() -> str:
    """Returns 32 hexadecimal digits laid out as a version 7 UUID (RFC 9562)."""
    value = (time.time_ns() // 1_000_000) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"


def short_user(user_id: str) -> str:
    """Returns the form of a user id that may stand in a log: enough to correlate, too little to identify."""
    return user_id if len(user_id) <= 4 else f"{user_id[:3]}…{len(user_id)}"  # noqa: PLR2004 - the cut itself
