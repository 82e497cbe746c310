from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from shared.ids import new_id, short_user


def test_an_id_is_a_version_7_uuid_of_now() -> None:
    before = time.time_ns() // 1_000_000
    made = uuid.UUID(hex=new_id())
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert before <= made.int >> 80 <= time.time_ns() // 1_000_000


def test_ids_sort_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for second in (1, 2, 10, 1_700_000_000, 4_000_000_000):
        monkeypatch.setattr("time.time_ns", lambda second=second: second * 1_000_000_000)
        made.append(new_id())
    assert made == sorted(made)
    assert {len(item) for item in made} == {32}


def test_ids_do_not_repeat() -> None:
    with ThreadPoolExecutor(4) as pool:
        batches = pool.map(lambda _: [new_id() for _ in range(5000)], range(4))
    made = [item for batch in batches for item in batch]
    assert len(set(made)) == len(made)


@pytest.mark.parametrize(("user_id", "short"), [("alice@example.org", "ali…17"), ("alice", "ali…5"), ("bob", "bob")])
def test_a_shortened_user_id(user_id: str, short: str) -> None:
    assert short_user(user_id) == short
