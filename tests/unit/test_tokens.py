from __future__ import annotations

import base64
import json
import time
from dataclasses import FrozenInstanceError
from datetime import timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from shared.errors import ConfigurationError, InvalidContextError, UnauthorizedError
from shared.settings import Settings, load_settings
from shared.tokens import TokenVerifier, make_token

OLD, NEW, FOREIGN = ("k" * 63 + mark for mark in "123")
CLAIMS = {"sub": "alice", "iss": "lanewise", "aud": "lanewise"}


def settings(**values: Any) -> Settings:
    return load_settings({}, database_url="postgresql://x/y", secret_key="s" * 32, **values)


def verifier(**values: Any) -> TokenVerifier:
    return TokenVerifier(settings(jwt_secret=(NEW, OLD), **values))


def signed(key: Any = NEW, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **changes: Any) -> str:
    claims = {**CLAIMS, "exp": time.time() + 60, **changes}
    present = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(present, key, algorithm=algorithm, headers=headers)


def test_a_token_names_its_user_and_scopes() -> None:
    identity = verifier().verify(make_token(NEW, "alice", scopes=("runs", "admin"), ttl_s=60))
    assert identity.user_id == "alice"
    assert identity.scopes == {"runs", "admin"}
    assert 50 < identity.expires_at.timestamp() - time.time() <= 60


def test_a_token_of_ours_is_good_for_an_hour_from_now() -> None:
    before = int(time.time())
    identity = verifier().verify(make_token(NEW, "alice"))
    assert before <= identity.issued_at.timestamp() <= time.time()
    assert identity.expires_at - identity.issued_at == timedelta(hours=1)
    assert identity.scopes == {"runs"}


def test_who_somebody_is_cannot_be_changed() -> None:
    identity = verifier().verify(make_token(NEW, "alice"))
    with pytest.raises(FrozenInstanceError):
        identity.user_id = "bob"  # type: ignore[misc]


def test_runs_is_the_default_scope_and_an_empty_one_is_none() -> None:
    assert verifier().verify(signed()).scopes == {"runs"}
    assert verifier().verify(signed(scope="")).scopes == set()


@pytest.mark.parametrize(("iat", "issued_at"), [(None, 0), (100, 100), (100.5, 100.5), ("100", 100), (-1e30, 0)])
def test_a_token_says_when_it_was_issued_or_counts_as_of_1970(iat: Any, issued_at: float) -> None:
    assert verifier().verify(signed(iat=iat)).issued_at.timestamp() == issued_at


def test_keys_rotate() -> None:
    assert verifier().verify(make_token(OLD, "alice")).user_id == "alice"
    with pytest.raises(UnauthorizedError):
        verifier().verify(make_token(FOREIGN, "alice"))


def test_without_a_jwt_secret_keys_are_derived_from_the_secret() -> None:
    plain = settings()
    assert TokenVerifier(plain).verify(make_token(plain.jwt_keys[0], "alice")).user_id == "alice"
    with pytest.raises(UnauthorizedError):
        TokenVerifier(plain).verify(make_token("s" * 32, "alice"))


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": None}, {"aud": None}, {"iss": None}, {"sub": None}, {"aud": "other"}, {"iss": "other"}, {"sub": 7},
        {"sub": ""}, {"sub": "system"}, {"sub": "*"}, {"sub": "a\0b"}, {"sub": "x" * 129}, {"sub": " alice"},
        {"exp": time.time() - 60}, {"exp": "soon"}, {"exp": 1e400}, {"nbf": time.time() + 3600}, {"sub": ["alice"]},
        {"aud": ["other"]}, {"iat": -(10**400)}, {"iat": []}, {"iat": time.time() + 3600}, {"nbf": {}}, {"exp": []},
    ],
)  # fmt: skip
def test_claims_that_are_missing_or_wrong(changes: dict[str, Any]) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        verifier().verify(signed(**changes))
    assert "alice" not in str(caught.value)


def test_the_cause_that_is_logged_is_what_the_newest_key_found() -> None:
    for token, cause in (
        (signed(aud="other"), jwt.InvalidAudienceError),
        (signed(OLD, aud="other"), jwt.InvalidSignatureError),
        (signed(FOREIGN), jwt.InvalidSignatureError),
    ):
        with pytest.raises(UnauthorizedError) as caught:
            verifier().verify(token)
        assert type(caught.value.__cause__) is cause


def test_the_clock_may_be_a_little_off_and_not_more() -> None:
    assert verifier().verify(signed(exp=time.time() - 5))
    with pytest.raises(UnauthorizedError, match="expired"):
        verifier().verify(signed(exp=int(time.time()) - 10))


def test_an_end_beyond_all_calendars() -> None:
    assert verifier().verify(signed(exp=10**15)).expires_at.year == 9999


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "..", "ü.ü.ü", "\0", "e30.e30.", "x" * 100_000, "\ud800"])
def test_what_is_no_token(token: str, tmp_path: Path) -> None:
    key = json.loads(ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP256R1()).public_key()))
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [{**key, "kid": "1"}]}))
    for used in (verifier(), TokenVerifier(settings()), verifier(jwt_jwks_file=path)):
        with pytest.raises(UnauthorizedError):
            used.verify(token)


def test_the_tokens_header_decides_nothing(tmp_path: Path) -> None:
    private = rsa.generate_private_key(65537, 2048)
    public = json.loads(RSAAlgorithm.to_jwk(private.public_key()))
    with_own_key = {"jwk": public, "jku": "https://evil.example/keys", "kid": "1"}
    for forged in (
        jwt.encode({**CLAIMS, "exp": time.time() + 60}, "", algorithm="none"),
        signed(private, "RS256", headers=with_own_key),
        signed(NEW, "HS384"),
    ):
        with pytest.raises(UnauthorizedError):
            verifier().verify(forged)
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [{**public, "kid": "1"}]}))
    with pytest.raises(UnauthorizedError):  # a shared secret is not accepted beside public keys
        verifier(jwt_jwks_file=path).verify(signed(NEW, headers={"kid": "1"}))


def test_public_keys_of_three_kinds(tmp_path: Path) -> None:
    keys: dict[str, tuple[Any, Any]] = {
        "RS256": (rsa.generate_private_key(65537, 2048), RSAAlgorithm),
        "ES256": (ec.generate_private_key(ec.SECP256R1()), ECAlgorithm),
        "EdDSA": (ed25519.Ed25519PrivateKey.generate(), OKPAlgorithm),
    }
    items = [{**json.loads(kind.to_jwk(key.public_key())), "kid": name} for name, (key, kind) in keys.items()]
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": [*items, {"kty": "oct", "kid": "shared", "k": "AAAA"}]}))
    used = verifier(jwt_jwks_file=path)
    for name, (key, _) in keys.items():
        assert used.verify(signed(key, name, headers={"kid": name})).user_id == "alice"
        for headers in ({"kid": "other"}, {}, {"kid": "shared"}, {"kid": ""}):
            with pytest.raises(UnauthorizedError):
                used.verify(signed(key, name, headers=headers))
    with pytest.raises(UnauthorizedError):
        used.verify(signed(keys["RS256"][0], "RS256", headers={"kid": "ES256"}))


def test_of_a_key_set_only_what_is_for_our_algorithms_counts(tmp_path: Path) -> None:
    """A key set is public: a token signed with something in it that is a shared key could be anybody's."""
    private, shared = rsa.generate_private_key(65537, 2048), "k" * 32
    public = json.loads(RSAAlgorithm.to_jwk(private.public_key()))
    oct_key = {"kty": "oct", "k": base64.urlsafe_b64encode(shared.encode()).decode().rstrip("=")}
    keys = [
        {**public, "kid": "ours"}, {**public, "kid": "stated", "alg": "RS256"},
        {**public, "kid": "other", "alg": "RS512"}, {**oct_key, "kid": "shared"},
        {**oct_key, "kid": "stated shared", "alg": "HS256"},
    ]  # fmt: skip
    path = tmp_path / "jwks.json"
    path.write_text(json.dumps({"keys": keys}))
    used = verifier(jwt_jwks_file=path)
    for kid in ("ours", "stated"):
        assert used.verify(signed(private, "RS256", headers={"kid": kid})).user_id == "alice"
    for kid, key, algorithm in (
        ("other", private, "RS256"), ("other", private, "RS512"), ("ours", private, "RS512"),
        ("shared", shared, "HS256"), ("stated shared", shared, "HS256"),
    ):  # fmt: skip
        with pytest.raises(UnauthorizedError):
            used.verify(signed(key, algorithm, headers={"kid": kid}))


@pytest.mark.parametrize(
    "content",
    [
        None,
        "",
        "{}",
        '{"keys": []}',
        '{"keys": [{"kty": "RSA"}]}',
        '{"keys": 7}',
        '{"keys": [{"kty": "RSA", "kid": "1"}]}',
        '{"keys": [{"kty": "oct", "kid": "1", "k": "AAAA"}]}',
    ],
)
def test_a_key_file_that_cannot_be_used_stops_the_start(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "jwks.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match="LANEWISE_JWT_JWKS_FILE"):
        verifier(jwt_jwks_file=path)


@pytest.mark.parametrize("user_id", ["", "system", "a\nb"])
def test_no_token_is_made_for_nobody(user_id: str) -> None:
    with pytest.raises(InvalidContextError):
        make_token(NEW, user_id)
