"""The deliberate breaks of Python code. A fleet's processes install one at their start; see `tests.chaos.breaks`."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.sabotage import Saboteur

Patch = Callable[[Any], None]
KEPT_SLOTS = 6  # one slot in so many is never given back
BETWEEN_S = 0.5


def put(owner: Any, name: str, wrong: Any) -> None:
    """Puts something wrong in the place of what must be there: a break that breaks nothing is to be noticed."""
    getattr(owner, name)
    setattr(owner, name, wrong)


def never_recover(module: Any) -> None:
    put(module.Recovery, "recover_dead_workers", lambda _recovery: 0)


def never_send_again(module: Any) -> None:
    put(module.Recovery, "send_again", lambda _recovery: 0)


def renumber(module: Any) -> None:
    right = module._view
    put(module, "_view", lambda *given: (view := right(*given)) | {"run_seq": view["run_seq"] + 1})


def forget_keys(module: Any) -> None:
    right = module.accept
    put(module, "accept", lambda *given, **named: right(*given, **{**named, "key": None}))


def call_outages_errors(module: Any) -> None:
    put(module.UnavailableError, "status", 500)


def ignore_limits(module: Any) -> None:
    right = module.Slots.acquire

    def acquire(slots: Any, user_id: str, members: Any, limit: int, live: Any) -> Any:
        return right(slots, user_id, members, limit + 5, live)

    put(module.Slots, "acquire", acquire)


def keep_slots(module: Any) -> None:
    begin, release = module.Slots.__init__, module.Slots.release

    def begin_long(slots: Any, client: Any, keys: Any, _lease_s: float) -> None:
        begin(slots, client, keys, 3600)

    def release_most(slots: Any, user_id: str, members: Any) -> Any:
        return release(slots, user_id, [name for name in members if sum(name.encode()) % KEPT_SLOTS])

    put(module.Slots, "__init__", begin_long)
    put(module.Slots, "release", release_most)


def look_for_no_leaks(module: Any) -> None:
    put(module.Lanes, "_leaked", lambda _lanes, _user_id: set())


def commit_apart(module: Any) -> None:
    def write_apart(records: Any, right: Any, session: Any, full: str, function: Any) -> Any:
        with records._records.open_session() as apart:
            result = function(apart)
        time.sleep(BETWEEN_S)
        return right(records, session, full, lambda _session: result)

    kinds = [value for value in vars(module).values() if hasattr(value, "_write")]
    assert kinds
    for kind in kinds:
        right = kind._write
        kind._write = lambda records, *given, right=right: write_apart(records, right, *given)


def forget_users(module: Any) -> None:
    """A replay does not say any more whose events it wants, to its query or to Postgres."""
    from sqlalchemy import select, text  # noqa: PLC0415 - nothing is imported before the fleet does it

    def read_stream(session: Any, _user_id: str, after: int, limit: int) -> list[Any]:
        session.execute(text("SELECT set_config('lanewise.user', '*', true)"))
        events = module.RunEvent
        found = session.scalars(select(events).where(events.seq > after).order_by(events.seq).limit(limit))
        return [module._view(row, row) for row in found]

    put(module, "read_stream", read_stream)


def fail_always(module: Any) -> None:
    def execute(*_: Any) -> None:
        raise RuntimeError("every run fails")

    for kind in (module.Work, module.Block):
        kind.execute = execute


PATCHES: dict[str, dict[str, Patch]] = {
    "no-recovery": {"worker.recovery": never_recover},
    "never-sent-again": {"worker.recovery": never_send_again},
    "events-renumbered": {"shared.events": renumber},
    "keys-forgotten": {"shared.acceptance": forget_keys},
    "outage-is-an-error": {"shared.errors": call_outages_errors},
    "limits-ignored": {"shared.slots": ignore_limits},
    "slots-kept": {"shared.slots": keep_slots, "worker.lanes": look_for_no_leaks},
    "steps-apart": {"worker.state": commit_apart},
    "users-forgotten": {"shared.events": forget_users},
    "agents-fail": {"tests.chaos.agents": fail_always},
}


def install(patches: Mapping[str, Patch]) -> None:
    """Has this process's modules broken as soon as they are imported."""
    sys.meta_path.insert(0, Saboteur(patches))


@contextmanager
def sabotaged(module: str, name: str) -> Iterator[dict[str, str]]:
    """Yields the environment in which a fleet's processes break themselves.

    Args:
        module: has the `PATCHES`.
        name: of some of them; nothing is broken if there are none.
    """
    with tempfile.TemporaryDirectory(prefix="lanewise-break-") as folder:
        lines = (
            "from tests.chaos.sabotage import install",
            f"from {module} import PATCHES",
            f"install(PATCHES.get({name!r}, {{}}))",
        )
        Path(folder, "sitecustomize.py").write_text("\n".join(lines))
        yield {"PYTHONPATH": folder}
