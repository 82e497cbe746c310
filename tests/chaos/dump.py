"""Puts what is needed to understand a failure into a folder."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos.checker import Violation
from tests.chaos.faults import Scene

OPEN = "SELECT to_jsonb(r) AS run FROM lanewise.runs r WHERE status IN ('queued', 'running') ORDER BY created_at"
TABLES = ("workers", "leases", "user_streams", "user_limits")
SESSIONS = "SELECT pid, state, wait_event_type, wait_event, query_start::text, query FROM pg_stat_activity"


def dump(scene: Scene, seed: int, violations: list[Violation]) -> Path:
    """Returns the folder: the history, the runs that did not end, slots, queues, sessions, and all logs."""
    folder = Path(tempfile.mkdtemp(prefix=f"lanewise-chaos-{seed}-"))
    scene.history.write(folder)
    _write(folder / "violations.jsonl", [{"invariant": v.invariant, "detail": v.detail} for v in violations])
    _write(folder / "open-runs.jsonl", [row.run for row in scene.stores.rows(OPEN)])
    for table in TABLES:
        rows = scene.stores.rows(f"SELECT to_jsonb(t) AS row FROM lanewise.{table} t")  # noqa: S608 - a name of ours
        _write(folder / f"table.{table}.jsonl", [row.row for row in rows])
    _write(folder / "sessions.jsonl", [dict(row._mapping) for row in scene.stores.rows(SESSIONS)])
    _write(folder / "redis.jsonl", [*_redis(scene.stores.slots), *_redis(scene.stores.broker)])
    for name, text in scene.fleet.logs().items():
        (folder / name).write_text(text)
    return folder


def _write(path: Path, items: list[Any]) -> None:
    path.write_text("".join(json.dumps(item, default=str) + "\n" for item in items))


def _redis(client: Any) -> list[dict[str, Any]]:
    found = []
    for key in client.scan_iter(count=1000):
        kind = client.type(key)
        value = client.zrange(key, 0, -1, withscores=True) if kind == "zset" else None
        found.append({"key": key, "type": kind, "length": client.llen(key) if kind == "list" else None, "value": value})
    return found
