"""`run.state` over records in memory: what threads, odd results and stores that come and go do to it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

import pytest

from shared.errors import InvalidError, UnavailableError
from tests.parts import DictRecords
from worker import state as state_module
from worker.state import Records, StateManager


def no_session() -> NoReturn:
    raise AssertionError


def a_state(kept_by: Any = None, *, cancelled: bool = False) -> StateManager:
    return StateManager(Records(kept_by or DictRecords(), (), lambda: cancelled, no_session), "a")


def test_two_threads_that_load_the_same_do_not_overwrite_each_other() -> None:
    state, both = a_state(), threading.Barrier(2)

    def add(_: int) -> Any:
        first = True

        def change(before: int | None) -> int:
            nonlocal first
            if first:
                both.wait(10)
            first = False
            return (before or 0) + 1

        return state.update(change)

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(add, range(2))) == [1, 2]
    assert state.load() == 2


@pytest.mark.parametrize("name", ["", "a/b", "x" * 101, "a\nb", 7])
def test_a_step_has_a_name_of_its_own(name: Any) -> None:
    state = a_state()
    with pytest.raises(InvalidError, match="1 to 100 printable characters"):
        state.step(name, lambda: 1)
    assert state.step("one", lambda: 1) == 1
    with pytest.raises(InvalidError, match="there was a step 'one' already"):
        state.step("one", lambda: 2)


def test_a_plain_function_that_would_have_to_be_awaited_is_refused_with_the_cure() -> None:
    async def fetch() -> int:
        return 1

    records = DictRecords()
    with pytest.raises(InvalidError, match=r"step\('one', function, argument\)"):
        a_state(records).step("one", lambda: fetch())  # type: ignore[unused-coroutine] # noqa: PLW0108 - the mistake
    assert records.steps == {}


class Flaky(DictRecords):
    """A store that is away a few times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.left = times

    def record_step(self, name: str, result: Any) -> bool:
        self._fail()
        return super().record_step(name, result)

    def save_artifact(self, name: str, content_type: str, content: bytes) -> None:
        self._fail()
        super().save_artifact(name, content_type, content)

    def _fail(self) -> None:
        self.left -= 1
        if self.left >= 0:
            raise UnavailableError("away")


def test_a_store_that_is_away_is_waited_for_unless_the_run_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "PAUSE_S", 0.001)
    done: list[int] = []
    assert a_state(Flaky(3)).step("one", lambda: done.append(1)) is None
    assert done == [1]
    with pytest.raises(UnavailableError):
        a_state(Flaky(3), cancelled=True).step("one", lambda: 1)
    monkeypatch.setattr(state_module, "PATIENCE_S", 0.01)
    with pytest.raises(UnavailableError):
        a_state(Flaky(10**9)).step("one", lambda: 1)
