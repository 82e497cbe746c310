"""What the gateway remembers of a user's events, and for how long."""

from __future__ import annotations

import time

import pytest

from api.gateway.ring import KEPT_S, Ring


def test_what_is_put_before_old_frames_keeps_none_of_them_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    remembered = Ring(limit=1_000_000)
    remembered.append([b"3", b"4"])
    now = KEPT_S - 1
    remembered.prepend([b"1", b"2"])
    assert remembered.newest(4) == [b"1", b"2", b"3", b"4"]
    now = KEPT_S + 1
    remembered.trim(1_000_000)
    assert len(remembered) == 0
