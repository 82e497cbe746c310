"""Nothing of one user's shows at another's; and what would show it does show planted leaks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.fleet.canaries import Leak
from tests.fleet.fleet import AGENTS, Fleet
from tests.fleet.scene import RUNS_EACH, Scene

GIVEN = {"input", "run metadata", "thinking", "progress", "token", "result", "error"}
KEPT = {"step", "state", "memory", "artifact"}
# Where a user has to find the own canaries, at least; else we looked past them.
OWN = {
    "rest": GIVEN | {"document", "document name", "title", "thread metadata", "artifact", "passage"},
    "websocket live": {"thinking", "progress", "token", "error"},
    "websocket replay": {"thinking", "progress", "token", "error"},
    "websocket snapshot": GIVEN - {"thinking", "token"},
    "database": GIVEN | KEPT | {"document", "document name", "passage", "title", "thread metadata", "key"},
    "redis": {"thinking", "progress", "token", "error", "store"},
    "sandbox memory": {"input", "thinking", "progress", "token", "store", "result", "error"} | KEPT,
    "sandbox state": {"state", "memory"},
    "sandbox rows": {"document", "document name", "passage"},
    "sandbox store": {"store"},
}
SABOTAGE = Path(__file__).parent / "sabotage"


def ways(leaks: Sequence[Leak]) -> set[str]:
    return {leak.way for leak in leaks}


def test_ten_users_at_once_see_nothing_of_one_another(fleet: Fleet, tmp_path: Path) -> None:
    scene = Scene(fleet, tmp_path, users=10, patience_s=10)
    leaks = scene.play()
    assert leaks == []
    seen = scene.canaries.own(scene.sights)
    for user in scene.users:
        assert {way: missed for way, places in OWN.items() if (missed := places - seen[user, way])} == {}
        runs = [fleet.run(user, run_id) for run_id in scene.runs[user]]
        assert [run["status"] for run in runs] == ["completed", "completed", "failed"]
    assert len(list(tmp_path.iterdir())) == 10 * RUNS_EACH  # all were at work at once, else nobody had gone on
    assert scene.answers_about_others == {(404, "not_found")}
    for report in scene.reports:
        assert report["environment"] == []
        # One to its own runner, two of its event loop, and none of anybody else's.
        assert sum(link.startswith("socket:") for link in report["links"]) == 3


@pytest.fixture(scope="module")
def switches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the breaks that are in force."""
    return tmp_path_factory.mktemp("switches")


@pytest.fixture(scope="module")
def breakable(switches: Path) -> Iterator[Fleet]:
    """A fleet whose walls can be torn down."""
    env = {
        "PYTHONPATH": str(SABOTAGE), "SABOTAGE": str(switches), "LANEWISE_SANDBOX_ENV": "SABOTAGE",
        "LANEWISE_AGENTS": AGENTS,
    }  # fmt: skip
    with Fleet.start("--slots", "6", "--no-flower", env=env) as running:
        yield running


NO_ROW_SECURITY = (
    "ALTER TABLE lanewise.runs DISABLE ROW LEVEL SECURITY; ALTER TABLE lanewise.threads DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE lanewise.runs ENABLE ROW LEVEL SECURITY; ALTER TABLE lanewise.threads ENABLE ROW LEVEL SECURITY",
)
OPEN_POLICY = (
    "CREATE POLICY planted ON lanewise.documents FOR SELECT TO lanewise_run USING (true)",
    "DROP POLICY planted ON lanewise.documents",
)
PLANTED = {
    "nothing is broken": ((), set()),
    "every query forgets its filter": (("filter",), set()),  # row level security holds
    "tables have no row level security": ((NO_ROW_SECURITY,), {"database"}),
    "neither filters nor row level security": (
        ("filter", NO_ROW_SECURITY),
        {"database", "rest", "websocket snapshot"},
    ),
    "a policy lets every run in": ((OPEN_POLICY,), {"sandbox rows", "sandbox memory"}),
    "events go to everybody's channel": (("channel",), {"redis", "websocket live", "websocket replay"}),
    "stored values share their keys": (("store",), {"redis", "sandbox store", "sandbox memory"}),
    "sandboxes share memory": (("memory",), {"sandbox memory"}),
    "a log line quotes an agent": (("log",), {"log"}),
}


@contextmanager
def in_force(fleet: Fleet, switches: Path, break_: str | tuple[str, str]) -> Iterator[None]:
    """Breaks something, and mends it."""
    with ExitStack() as stack:
        if isinstance(break_, str):
            (switches / break_).touch()
            stack.callback((switches / break_).unlink)
        else:
            connection = stack.enter_context(fleet.superuser().connect())
            connection.exec_driver_sql(break_[0])
            stack.callback(connection.exec_driver_sql, break_[1])
        yield


@pytest.mark.parametrize(("breaks", "expected"), PLANTED.values(), ids=PLANTED)
def test_planted_leaks_are_caught(
    breakable: Fleet, switches: Path, tmp_path: Path, breaks: Sequence[str | tuple[str, str]], expected: set[str]
) -> None:
    with ExitStack() as stack:
        for break_ in breaks:
            stack.enter_context(in_force(breakable, switches, break_))
        leaks = Scene(breakable, tmp_path, users=2, patience_s=1).play()
    assert ways(leaks) == expected, leaks[:10]
