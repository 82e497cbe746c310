from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner

from shared.errors import SignatureError
from shared.signing import Signer, database_token, derive_key

OLD, NEW, OTHER = "old-" + "a" * 32, "new-" + "b" * 32, "other-" + "c" * 32


def signer(*secrets: str, purpose: str = "run-message", deployment: str = "prod") -> Signer:
    return Signer(secrets or (NEW,), purpose, deployment)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8")), st.lists))
def test_what_was_signed_comes_back(value: Any) -> None:
    text = signer().sign(value)
    assert text.isascii()
    assert signer().verify(text) == value


def test_while_keys_rotate_both_are_accepted_and_the_newest_signs() -> None:
    rotating = signer(NEW, OLD)
    assert rotating.verify(signer(OLD).sign("by the old key")) == "by the old key"
    assert signer(NEW).verify(rotating.sign("x")) == "x"
    with pytest.raises(SignatureError):
        signer(OLD).verify(rotating.sign("x"))


@pytest.mark.parametrize(
    "verifier",
    [signer(OTHER), signer(purpose="ticket"), signer(deployment="staging"), signer(purpose="prod", deployment="x")],
)
def test_another_key_purpose_or_deployment_refuses(verifier: Signer) -> None:
    with pytest.raises(SignatureError):
        verifier.verify(signer().sign({"user_id": "alice"}))


def test_of_the_texts_with_the_same_signature_one_is_accepted() -> None:
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    text = signer().sign({"user_id": "alice"})
    accepted = []
    for letter in letters:
        with suppress(SignatureError):
            signer().verify(text[:-1] + letter)
            accepted.append(letter)
    assert accepted == [text[-1]]


def test_every_changed_or_missing_character_is_refused() -> None:
    text = signer().sign({"user_id": "alice", "n": 1})
    for position, character in enumerate(text):
        replaced = text[:position] + ("A" if character != "A" else "B") + text[position + 1 :]
        for tampered in (replaced, text[:position] + text[position + 1 :], text[:position]):
            with pytest.raises(SignatureError):
                signer().verify(tampered)


@given(st.text())
def test_any_other_text_is_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        signer().verify(text)


def test_age_is_limited_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_700_000_000
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _self: now)
    text = signer().sign("x")
    now += 30
    assert signer().verify(text, max_age_s=30) == "x"
    now += 1
    assert signer().verify(text) == "x"
    with pytest.raises(SignatureError):
        signer().verify(text, max_age_s=30)


def test_each_purpose_has_a_key_of_its_own() -> None:
    keys = {derive_key(secret, purpose) for secret in (OLD, NEW) for purpose in ("jwt", "run-message", "database")}
    assert len(keys) == 6
    assert {len(key) for key in keys} == {32}


def test_a_database_token_names_user_run_attempt_and_expiry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 1000.5)
    key = derive_key(NEW, "database-token")
    user, run, attempt, expiry, mac = database_token(key, "ünï.cøde", "r-1", 2, 60).split(".")
    assert (bytes.fromhex(user).decode(), run, attempt, expiry) == ("ünï.cøde", "r-1", "2", "1060")
    body = f"{user}.{run}.{attempt}.{expiry}".encode()
    assert mac == hmac.new(key, body, hashlib.sha256).hexdigest()
