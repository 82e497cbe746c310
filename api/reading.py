"""Reading runs in their public form: one round trip, and a second one only where a run stands in a queue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from sqlalchemy import Row

from api.gateway.hub import Hub
from shared.database import Executor, load_sql
from shared.errors import NotFoundError
from shared.models import Run
from shared.queueing import queue_views
from shared.runs import run_view
from shared.services import Services

MAX_PAGE_BYTES = 8 * 1024 * 1024  # inputs and outputs together; the first run of a page comes whatever its size
SNAPSHOT_LIVE = 200
SNAPSHOT_RECENT = 20
_PAGE = load_sql("runs_page")
_SNAPSHOT = load_sql("runs_snapshot")
_ANY = dict.fromkeys(("run_id", "agent", "thread_id", "statuses", "before"))

Views = list[dict[str, Any]]


class RunReader:
    """Reads the runs of users.

    Args:
        services: where they are.
        hub: knows whether Redis is away.
    """

    def __init__(self, services: Services, hub: Hub) -> None:
        self._database = services.database
        self._slots = services.settings.user_concurrent_runs
        self._hub = hub

    @property
    def redis_away(self) -> bool:
        """Whether admission is known to wait for Redis."""
        return self._hub.redis_away

    def view(self, user_id: str, run_id: str) -> dict[str, Any]:
        """Returns a run.

        Raises:
            NotFoundError: the user has no such run, or its thread is deleted.
        """
        views, _ = self.page(self._database.once(user_id), user_id, 1, run_id=run_id)
        if not views:
            raise NotFoundError("no such run")
        return views[0]

    def list(self, user_id: str, limit: int, **only: Any) -> tuple[Views, bool]:
        """Returns the newest runs and whether more follow; a page ends early before it grows beyond 8 MiB.

        Args:
            only: `agent`, `thread_id`, `statuses`, `before` (an id).
        """
        return self.page(self._database.once(user_id), user_id, limit, **only)

    def page(self, executor: Executor, user_id: str, limit: int, **only: Any) -> tuple[Views, bool]:
        """Does the same in a transaction of the caller's."""
        parameters = {**_ANY, **only, "user_id": user_id, "limit": limit, "budget": MAX_PAGE_BYTES}
        rows = list(executor.execute(_PAGE, parameters))
        return self._views(executor, user_id, rows), bool(rows) and rows[0].total > len(rows)

    def snapshot(self, executor: Executor, user_id: str) -> tuple[Views, bool]:
        """Returns live and recent runs, the newest first, and whether more are live: those that were to run last.

        Beyond 8 MiB, inputs and outputs are None.
        """
        limits = {"live": SNAPSHOT_LIVE, "recent": SNAPSHOT_RECENT, "budget": MAX_PAGE_BYTES}
        rows = list(executor.execute(_SNAPSHOT, {"user_id": user_id, **limits}))
        return self._views(executor, user_id, rows), bool(rows) and rows[0].more

    def _views(self, executor: Executor, user_id: str, rows: Sequence[Row[Any]]) -> Views:
        runs = cast("Sequence[Run]", rows)  # the columns that a view needs, under the same names
        queues = queue_views(executor, user_id, runs, self._slots, redis_away=self.redis_away)
        return [run_view(run, queues.get(run.id)) for run in runs]
