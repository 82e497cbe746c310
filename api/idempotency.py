"""Idempotency keys: the same key with the same body is the same run, however often it is sent."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any

from shared.acceptance import IdempotencyKey
from shared.errors import InvalidError

MAX_KEY_LENGTH = 255
_QUOTED = re.compile(r'"(?:[ !#-\[\]-~]|\\["\\])*"')  # sf-string
_ESCAPED = re.compile(r"\\(.)")


def read_header(text: str) -> str:
    """Returns the key in the header: a quoted string as the IETF draft has it (RFC 8941), or a bare one, as it is.

    Raises:
        InvalidError: it begins like a quoted string and is none.
    """
    text = text.strip(" \t")
    if not text.startswith('"'):
        return text
    if _QUOTED.fullmatch(text) is None:
        raise _wrong('must be one string in double quotes, with \\" and \\\\ for these characters in it')
    return _ESCAPED.sub(r"\1", text[1:-1])


def make_key(value: Any, body: Any) -> IdempotencyKey:
    """Returns the checked key with the fingerprint of its body: SHA-256 of the canonical JSON.

    Raises:
        InvalidError: not 1 to 255 printable ASCII characters, or a body that is nested too deeply.
    """
    if not isinstance(value, str) or not 1 <= len(value) <= MAX_KEY_LENGTH or not _is_printable(value):
        raise _wrong(f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters")
    try:
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
    except RecursionError:  # it could be read, with a few calls less on the stack
        raise InvalidError("the body is nested too deeply") from None
    return IdempotencyKey(value, hashlib.sha256(canonical.encode()).hexdigest())


def _wrong(message: str) -> InvalidError:
    return InvalidError(f"Idempotency-Key {message}", errors=[{"field": "Idempotency-Key", "message": message}])


def _is_printable(value: str) -> bool:
    return value.isascii() and value.isprintable()
