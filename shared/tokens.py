"""Bearer tokens: JWTs with fixed algorithms. The token's own header chooses among our keys and decides nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jwt

from shared.context import check_user_id
from shared.errors import ConfigurationError, InvalidContextError, UnauthorizedError
from shared.settings import Settings

DEFAULT_SCOPES = ("runs",)
LEEWAY_S = 10
_REQUIRED = ["exp", "sub"]  # as `aud` and `iss` are, which are compared
_ASYMMETRIC = {"RSA": "RS256", "EC": "ES256", "OKP": "EdDSA"}
_LATEST = 253_402_300_799  # the last second of the year 9999, which datetime can hold


@dataclass(frozen=True)
class Identity:
    """Who a request belongs to, as a verified token or ticket says.

    Args:
        user_id: the subject.
        scopes: what it may do: `runs`, `admin`.
        issued_at: when the token was issued, in whole seconds as a rule; 1970 if it does not say.
        expires_at: when the token ends.
    """

    user_id: str
    scopes: frozenset[str]
    issued_at: datetime
    expires_at: datetime


def make_token(  # noqa: PLR0913 - the claims, all named at each call
    key: str,
    user_id: str,
    *,
    scopes: Sequence[str] = DEFAULT_SCOPES,
    ttl_s: float = 3600,
    issuer: str = "lanewise",
    audience: str = "lanewise",
) -> str:
    """Returns an HS256 token.

    Args:
        key: `Settings.jwt_keys[0]`.
        user_id: the subject.
        ttl_s: seconds until it expires.

    Raises:
        InvalidContextError: a user id that cannot be one.
    """
    now = int(time.time())
    claims = {
        "sub": check_user_id(user_id), "scope": " ".join(scopes), "iss": issuer, "aud": audience, "iat": now,
        "exp": now + int(ttl_s),
    }  # fmt: skip
    return jwt.encode(claims, key, algorithm="HS256")


class TokenVerifier:
    """Verifies bearer tokens with the keys of the settings, read once.

    Args:
        settings: `jwt_jwks_file`, else `jwt_keys`; `jwt_issuer`, `jwt_audience`.

    Raises:
        ConfigurationError: the key file cannot be read or holds no usable key.
    """

    def __init__(self, settings: Settings) -> None:
        self._issuer = settings.jwt_issuer
        self._audience = settings.jwt_audience
        self._shared = settings.jwt_keys if settings.jwt_jwks_file is None else ()
        self._public = {} if settings.jwt_jwks_file is None else _read_jwks(settings.jwt_jwks_file)

    def verify(self, token: str) -> Identity:
        """Returns whom the token names.

        Raises:
            UnauthorizedError: it is malformed, expired, not meant for us, or signed by none of our keys.
        """
        error: Exception | None = None
        for key, algorithm in self._candidates(token):
            try:
                return _identity(self._decode(token, key, algorithm))
            except jwt.ExpiredSignatureError:
                raise UnauthorizedError("the token has expired") from None
            except (jwt.PyJWTError, InvalidContextError, ValueError, OverflowError) as problem:
                error = error or problem  # the next key may fit: keys rotate
        raise UnauthorizedError("the token is not valid here") from error

    def _candidates(self, token: str) -> list[tuple[Any, str]]:
        if self._shared:
            return [(key, "HS256") for key in self._shared]
        try:
            known = self._public.get(str(jwt.get_unverified_header(token).get("kid")))
        except (jwt.PyJWTError, ValueError):  # ValueError: a lone surrogate
            known = None
        return [known] if known else []

    def _decode(self, token: str, key: Any, algorithm: str) -> dict[str, Any]:
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            audience=self._audience,
            issuer=self._issuer,
            leeway=LEEWAY_S,
            options={"require": _REQUIRED},
        )


def _identity(claims: dict[str, Any]) -> Identity:
    scope = claims.get("scope")
    scopes = DEFAULT_SCOPES if scope is None else str(scope).split()
    expires_at = datetime.fromtimestamp(min(int(claims["exp"]), _LATEST), UTC)
    issued_at = datetime.fromtimestamp(max(0.0, float(claims.get("iat", 0))), UTC)  # PyJWT takes digits in a string
    return Identity(check_user_id(claims["sub"]), frozenset(scopes), issued_at, expires_at)


def _read_jwks(path: Path) -> dict[str, tuple[Any, str]]:
    """Returns key and algorithm by `kid`; what is not for one of our three algorithms is left out."""
    try:
        items = json.loads(path.read_text())["keys"]
        keys = {item["kid"]: (jwt.PyJWK(item, algorithm), algorithm) for item, algorithm in _usable(items)}
    except (OSError, ValueError, KeyError, TypeError, jwt.PyJWTError) as error:
        raise ConfigurationError(f"LANEWISE_JWT_JWKS_FILE: {path} is not a JWK set: {error}") from None
    if not keys:
        raise ConfigurationError(f"LANEWISE_JWT_JWKS_FILE: {path} has no RS256, ES256 or EdDSA key with a `kid`")
    return keys


def _usable(items: Any) -> list[tuple[dict[str, Any], str]]:
    pairs = [(item, _ASYMMETRIC.get(item.get("kty"))) for item in items if "kid" in item]
    return [(item, algorithm) for item, algorithm in pairs if algorithm and item.get("alg", algorithm) == algorithm]
