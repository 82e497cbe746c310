"""Idempotency keys: the same key with the same body is the same run, however often it is sent."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from shared.errors import ConflictError, InvalidError, KeyReusedError
from shared.models import IdempotencyKey

MAX_KEY_LENGTH = 255

# The lock tells "somebody is at it" (nobody waits for a transaction of unknown length) from "it was done before".
_RESERVE = text("""
INSERT INTO idempotency_keys (user_id, key, fingerprint, run_id)
SELECT :user_id, :key, :fingerprint, :run_id
WHERE pg_try_advisory_xact_lock(hashtextextended(:key, hashtextextended(:user_id, 0)))
ON CONFLICT (user_id, key) DO NOTHING
RETURNING run_id
""")


@dataclass(frozen=True)
class Key:
    """A key with the fingerprint of its body.

    Args:
        value: 1 to 255 printable ASCII characters.
        fingerprint: SHA-256 of the canonical JSON of the body.
    """

    value: str
    fingerprint: str

    @classmethod
    def of(cls, value: Any, body: Any) -> Key:
        """Returns the checked key.

        Raises:
            InvalidError: not 1 to 255 printable ASCII characters.
        """
        if not isinstance(value, str) or not 1 <= len(value) <= MAX_KEY_LENGTH or not _is_printable(value):
            message = f"must be 1 to {MAX_KEY_LENGTH} printable ASCII characters"
            raise InvalidError(f"Idempotency-Key {message}", errors=[{"field": "Idempotency-Key", "message": message}])
        canonical = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return cls(value, hashlib.sha256(canonical.encode()).hexdigest())

    def reserve(self, session: Session, user_id: str, run_id: str) -> str:
        """Binds the key to a run in the present transaction; returns the run that it is bound to.

        Raises:
            KeyReusedError: it is bound to another body.
            ConflictError: a request with the same key is being handled.
        """
        values = {"user_id": user_id, "key": self.value, "fingerprint": self.fingerprint, "run_id": run_id}
        if session.execute(_RESERVE, values).first() is not None:
            return run_id
        bound = self.find(session, user_id)
        if bound is None:
            raise ConflictError("a request with this Idempotency-Key is being handled; try again", retry_after_s=1)
        return bound

    def find(self, session: Session, user_id: str) -> str | None:
        """Returns the run that the key is bound to, if it is.

        Raises:
            KeyReusedError: it is bound to another body.
        """
        query = select(IdempotencyKey.run_id, IdempotencyKey.fingerprint)
        row = session.execute(query.where(IdempotencyKey.user_id == user_id, IdempotencyKey.key == self.value)).first()
        if row is not None and row.fingerprint != self.fingerprint:
            raise KeyReusedError("this Idempotency-Key was used with another body")
        return None if row is None else row.run_id


def _is_printable(value: str) -> bool:
    return value.isascii() and value.isprintable()
