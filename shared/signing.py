"""Keys and signatures. One secret, one derived key for each purpose, old keys accepted while they rotate.

Messages and tickets are signed by itsdangerous (the library beneath Flask's sessions): constant-time check, several
keys, time stamps. The database token has a format of our own, because Postgres itself must verify it; what is stored
as columns keeps its MAC and the name of the key in columns, too (`MacKeys`).
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from collections.abc import Sequence
from typing import Any

from itsdangerous import BadData, URLSafeTimedSerializer
from itsdangerous.encoding import base64_decode, base64_encode

from shared.errors import SignatureError

TOKEN_PURPOSE = "database-token"  # noqa: S105 - a purpose, not a password


def derive_key(secret: str, purpose: str) -> bytes:
    """Returns 32 bytes that belong to one purpose, so that a key that leaks opens nothing else."""
    return hmac.digest(secret.encode(), purpose.encode(), hashlib.sha256)


class Signer:
    """Signs JSON values for one purpose of one deployment.

    Args:
        secrets: newest first: the first signs, each verifies.
        purpose: what the value is for; a value signed for one purpose is refused for every other.
        deployment: so that two deployments that share a broker refuse each other's messages.
    """

    def __init__(self, secrets: Sequence[str], purpose: str, deployment: str) -> None:
        keys = [derive_key(secret, purpose).hex() for secret in reversed(secrets)]  # itsdangerous wants oldest first
        self._serializer = URLSafeTimedSerializer(
            keys, salt=f"{deployment}:{purpose}", signer_kwargs={"digest_method": hashlib.sha256}
        )

    def sign(self, value: Any) -> str:
        """Returns the value with its time stamp and signature as ASCII text."""
        return str(self._serializer.dumps(value))

    def verify(self, text: str, *, max_age_s: float | None = None) -> Any:
        """Returns the signed value.

        Raises:
            SignatureError: wrong key, purpose or deployment, tampered, or older than `max_age_s`.
        """
        try:
            # The last character has bits that nobody reads: of the texts with the same signature, one is accepted.
            signature = text.rpartition(".")[2].encode()
            if base64_encode(base64_decode(signature)) != signature:
                raise SignatureError("the signature does not verify")
            return self._serializer.loads(text, max_age=None if max_age_s is None else int(max_age_s))
        except (BadData, ValueError) as error:  # ValueError: a lone surrogate
            raise SignatureError("the signature does not verify") from error


class MacKeys:
    """Makes and verifies message authentication codes of JSON values that are stored beside them, for one purpose.

    Args:
        secrets: newest first: the first signs, each verifies.
        purpose: what the values are for.
    """

    def __init__(self, secrets: Sequence[str], purpose: str) -> None:
        keys = [derive_key(secret, purpose) for secret in secrets]
        self._keys = {hashlib.sha256(key).hexdigest()[:16]: key for key in keys}
        self._newest = next(iter(self._keys))

    def knows(self, key_id: str) -> bool:
        """Tells whether it is one of these keys."""
        return key_id in self._keys

    def sign(self, content: Any) -> dict[str, str]:
        """Returns the MAC by the newest key as `mac`, and which key that is as `key_id`."""
        return {"key_id": self._newest, "mac": _mac(self._keys[self._newest], content)}

    def verify(self, content: Any, key_id: str, mac: str) -> bool:
        """Tells whether the MAC is that of the content, by a key that is known."""
        key = self._keys.get(key_id)
        return key is not None and hmac.compare_digest(_mac(key, content).encode(), mac.encode())


def _mac(key: bytes, content: Any) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hmac.digest(key, canonical.encode(), hashlib.sha256).hex()


def database_token(key: bytes, user_id: str, run_id: str, attempt: int, ttl_s: float) -> str:
    """Returns what a sandbox shows to Postgres: `hex(user).run.attempt.expiry.mac`.

    The function `run_user()` of the schema verifies it (see migrations) and so decides whose rows the session sees.

    Args:
        key: derived for `TOKEN_PURPOSE`; Postgres holds the same in a table that only the owner reads.
        ttl_s: seconds until it is refused; the run's own deadline ends it earlier.
    """
    body = f"{user_id.encode().hex()}.{run_id}.{attempt}.{int(time.time() + ttl_s)}"
    return f"{body}.{hmac.new(key, body.encode(), hashlib.sha256).hexdigest()}"
