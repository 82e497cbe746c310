"""Idempotency keys: the same key with the same body is the same run, however often it is sent."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from shared.acceptance import IdempotencyKey
from shared.errors import InvalidError

MAX_KEY_LENGTH = 255


def make_key(value: Any, body: Any) -> IdempotencyKey:
    """Returns the checked key with the fingerprint of its body: SHA-256 of the canonical JSON.

    Raises:
        InvalidError: not 1 to 255 printable ASCII characters.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_KEY_LENGTH or not _is_printable(value):
        message = f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters"
        raise InvalidError(f"Idempotency-Key {message}", errors=[{"field": "Idempotency-Key", "message": message}])
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return IdempotencyKey(value, hashlib.sha256(canonical.encode()).hexdigest())


def _is_printable(value: str) -> bool:
    return value.isascii() and value.isprintable()
