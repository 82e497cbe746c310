from __future__ import annotations

import hashlib
import hmac
from contextlib import suppress
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from itsdangerous import TimestampSigner
from itsdangerous.encoding import base64_encode

from shared.errors import SignatureError
from shared.signing import TOKEN_PURPOSE, MacKeys, Signer, database_token, derive_key

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


def test_what_another_version_signed_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a fleet is restarted bit by bit both sign: key, salt, digest and format stay as they are."""
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _self: 1_700_000_000)
    text = "eyJ1c2VyX2lkIjoiYWxpY2UiLCJuIjoxfQ.ZVPxAA.mxFSER4obEpn3pm6Nq6XAe0z5P1KCNB6KI-uhSLf-fo"
    assert signer().sign({"user_id": "alice", "n": 1}) == text


@pytest.mark.parametrize("nested", ["[" * 100_000, "1" * 5000, "{", "\x00", '"\\ud800"'])
def test_signed_text_that_is_no_json_is_refused_or_read(nested: str) -> None:
    """Only who has the key can make it; it ends no process all the same."""
    with suppress(SignatureError):
        signer().verify(signer()._serializer.make_signer(signer()._serializer.salt).sign(_encoded(nested)).decode())


def _encoded(text: str) -> bytes:
    return base64_encode(text.encode())


@pytest.mark.parametrize("text", ["\ud800", "a.b.\ud800", "a.b.ü", "\0.\0.\0"])
def test_text_that_cannot_be_encoded_is_refused(text: str) -> None:
    with pytest.raises(SignatureError):
        signer().verify(text)


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
    key = derive_key(NEW, TOKEN_PURPOSE)
    user, run, attempt, expiry, mac = database_token(key, "ünï.cøde", "r-1", 2, 60).split(".")
    assert (bytes.fromhex(user).decode(), run, attempt, expiry) == ("ünï.cøde", "r-1", "2", "1060")
    body = f"{user}.{run}.{attempt}.{expiry}".encode()
    assert mac == hmac.new(key, body, hashlib.sha256).hexdigest()


class TestMacKeys:
    """What is stored in columns stays for years: no version may make other MACs, or name keys in another way."""

    CONTENT: ClassVar[Any] = ["record", {"b": 1, "a": ["ü", None, True]}]

    def test_a_mac_is_what_it_always_was(self) -> None:
        assert MacKeys([NEW, OLD], "audit").sign(self.CONTENT) == {
            "key_id": "100286b925044f5a",
            "mac": "945e420f6db00b5898b6a893b3f2f4a191929c3caf40b2c63ad31df773885f30",
        }

    def test_the_order_of_names_makes_no_difference(self) -> None:
        keys, other = MacKeys([NEW], "audit"), ["record", {"a": ["ü", None, True], "b": 1}]
        assert keys.verify(other, **keys.sign(self.CONTENT))

    def test_the_newest_signs_and_each_verifies(self) -> None:
        old, both = MacKeys([OLD], "audit"), MacKeys([NEW, OLD], "audit")
        assert both.verify(self.CONTENT, **old.sign(self.CONTENT))
        assert MacKeys([NEW], "audit").verify(self.CONTENT, **both.sign(self.CONTENT))
        assert both.sign(self.CONTENT) != old.sign(self.CONTENT)

    def test_what_does_not_fit_is_refused(self) -> None:
        keys = MacKeys([NEW], "audit")
        signed = keys.sign(self.CONTENT)
        assert keys.knows(signed["key_id"])
        assert not keys.verify([*self.CONTENT, 1], **signed)
        assert not keys.verify(self.CONTENT, signed["key_id"], signed["mac"][:-1])
        assert not keys.verify(self.CONTENT, signed["key_id"], "ü")
        for other in (MacKeys([OLD], "audit"), MacKeys([NEW], "another")):
            assert not other.knows(signed["key_id"])
            assert not other.verify(self.CONTENT, **signed)
            assert not other.verify(self.CONTENT, other.sign(self.CONTENT)["key_id"], signed["mac"])
