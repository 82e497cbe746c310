"""Looks, many times a second and on a way of its own, at how many runs of each user are running."""

from __future__ import annotations

import threading
import time
from typing import Self

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from tests.chaos.history import History, Sample
from tests.chaos.stores import Stores

EVERY_S = 0.05
# One statement is one moment.
RUNNING = sa.text("SELECT user_id, count(*) AS runs FROM lanewise.runs WHERE status = 'running' GROUP BY user_id")


class Sampler:
    """A thread that samples until the end of the `with` block; while Postgres is down there is nothing to see."""

    def __init__(self, stores: Stores, history: History) -> None:
        self._stores = stores
        self._history = history
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                with self._stores.engine.connect() as connection:
                    while not self._stopped.wait(EVERY_S):
                        self._sample(connection)
            except DBAPIError:
                self._stopped.wait(EVERY_S)

    def _sample(self, connection: sa.Connection) -> None:
        running = {row.user_id: int(row.runs) for row in connection.execute(RUNNING)}
        self._history.samples.append(Sample(time.time(), running))
