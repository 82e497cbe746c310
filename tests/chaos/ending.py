"""Reads what is stored once everything has come to rest."""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Any

from shared.redis import Keys
from tests.chaos.history import Final, History, Seen, Sighting, Step, StoredRun
from tests.chaos.stores import Stores

RUNS = """
    SELECT user_id, id, status, attempt, lost_attempts, last_run_seq, error,
        status = 'queued' AND granted_at IS NULL AS parked FROM lanewise.runs
"""
EVENTS = "SELECT user_id, seq, run_id, run_seq, type FROM lanewise.run_events ORDER BY user_id, seq"
STEPS = "SELECT user_id, run_id, name FROM lanewise.run_steps"
EFFECTS = "SELECT user_id, run_id, step AS name FROM chaos.effect"
TABLES = """
    SELECT table_schema || '.' || table_name AS name FROM information_schema.columns
    WHERE table_schema IN ('lanewise', 'chaos') AND column_name = 'user_id'
"""
CANARIES = "SELECT DISTINCT user_id, (regexp_matches(t::text, 'lwcanary[0-9a-f]{{32}}', 'g'))[1] AS canary FROM {} t"
HEADS = "SELECT user_id, head FROM lanewise.user_streams"
LIVE = "SELECT count(*) AS runs FROM lanewise.runs WHERE status IN ('queued', 'running')"
LATEST = "SELECT coalesce(sum(head), 0) AS total FROM lanewise.user_streams"


def read_final(stores: Stores, history: History) -> Final:
    """Returns what is stored, and notes whose canaries are in whose rows."""
    final = Final()
    for row in stores.rows(RUNS):
        final.runs[row.id] = StoredRun(
            row.user_id, row.status, row.attempt, row.lost_attempts, row.last_run_seq, row.error, parked=row.parked
        )
    events: dict[str, list[Seen]] = defaultdict(list)
    for row in stores.rows(EVENTS):
        events[row.user_id].append(Seen(row.seq, row.run_id, row.run_seq, row.type))
    final.events = dict(events)
    final.steps = _steps(stores, STEPS)
    final.effects = _steps(stores, EFFECTS)
    final.slots = slots_held(stores, list(history.users))
    for table in stores.rows(TABLES):
        for row in stores.rows(CANARIES.format(table.name)):
            history.sightings.add(Sighting(row.user_id, row.canary, f"table {table.name}"))
    return final


def _steps(stores: Stores, statement: str) -> list[Step]:
    return [Step(row.user_id, row.run_id, row.name) for row in stores.rows(statement)]


def slots_held(stores: Stores, users: list[str]) -> dict[str, list[str]]:
    """Returns the members of all users' slots, also those of nobody that we know; marks without an end are none."""
    prefix = "lw:default:"
    names = {Keys("default").slots(user): user for user in users}
    held: dict[str, list[str]] = {}
    for key in stores.slots.scan_iter(f"{prefix}*", count=1000):
        if re.search(r":slots$", str(key)):
            members: Any = stores.slots.zrangebyscore(key, "-inf", "(+inf")
            held[names.get(str(key), str(key))] = [str(member) for member in members]
    return {user: members for user, members in held.items() if members}


def heads(stores: Stores) -> dict[str, int]:
    """Returns the number of each user's last event."""
    return {row.user_id: int(row.head) for row in stores.rows(HEADS)}


def live_runs(stores: Stores) -> int:
    """Returns how many runs have not ended."""
    return int(stores.rows(LIVE)[0].runs)


def progress(stores: Stores) -> int:
    """Returns a number that grows with everything that happens."""
    return int(stores.rows(LATEST)[0].total)
