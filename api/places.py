"""What requests take of a process while they last, each user so much and all together so much."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from shared.errors import QuotaError

RETRY_AFTER_S = 1.0


class Places:
    """Counts what is taken.

    Args:
        of_user: the most that one user may take at once.
        in_all: the most that all may.
        what: is counted, for people.
    """

    def __init__(self, of_user: int, in_all: int, what: str) -> None:
        self._of_user = of_user
        self._in_all = in_all
        self._what = what
        self._taken: Counter[str] = Counter()  # by user
        self._lock = threading.Lock()

    @contextmanager
    def take(self, user_id: str, number: int = 1) -> Iterator[None]:
        """Takes some until the end of the block.

        Raises:
            QuotaError: there are not so many left, for the user or at all.
        """
        with self._lock:
            if self._taken[user_id] + number > self._of_user:
                problem = f"you have the most that one user may have at once, {self._of_user} {self._what}; ask again"
                raise QuotaError(problem, retry_after_s=RETRY_AFTER_S)
            if self._taken.total() + number > self._in_all:
                problem = f"there is the most that all may have at once, {self._in_all} {self._what}; ask again"
                raise QuotaError(problem, retry_after_s=RETRY_AFTER_S)
            self._taken[user_id] += number
        try:
            yield
        finally:
            with self._lock:
                self._taken[user_id] -= number
                if not self._taken[user_id]:
                    del self._taken[user_id]
