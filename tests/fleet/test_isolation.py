"""Nothing of one user's shows at another's; and what would show it does show planted leaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fleet.fleet import Fleet
from tests.fleet.leaks import PLANTED, breakable, is_caught, play
from tests.fleet.scene import Scene

RUNS_EACH = 3
# `python -m tests.chaos leaks` plants all of them: here are some, so that every layer is there.
CHOSEN = (
    "nothing is broken",
    "neither filters nor row level security",
    "a policy lets every run in",
    "an answer is cached by its path",
    "events go to everybody's channel",
    "stored values share their keys",
    "memory is found by the agent's name",
    "a log line quotes an agent",
    "sandboxes share their folder",
    "the zygote keeps what it passes on",
)


def test_ten_users_at_once_see_nothing_of_one_another(fleet: Fleet, tmp_path: Path) -> None:
    scene = Scene(fleet, users=10, runs_each=RUNS_EACH, patience_s=10, folder=tmp_path)
    assert scene.play() == []
    assert scene.unseen() == {}
    assert scene.unexpected == []
    assert scene.answers_about_others == {(404, "not_found")}
    assert len(scene.reports) == 10 * RUNS_EACH
    assert len(list(tmp_path.iterdir())) == 10 * RUNS_EACH  # all were at work at once, else nobody had gone on
    for user in scene.users:
        runs = [fleet.run(user, run_id) for run_id in scene.runs[user]]
        assert [run["status"] for run in runs] == ["completed", "completed", "failed"]


@pytest.fixture(scope="module")
def switches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the breaks that are in force."""
    return tmp_path_factory.mktemp("switches")


@pytest.fixture(scope="module")
def fragile(switches: Path) -> Iterator[Fleet]:
    with breakable(switches) as running:
        yield running


@pytest.mark.parametrize("name", CHOSEN)
def test_planted_leaks_are_caught(fragile: Fleet, switches: Path, tmp_path: Path, name: str) -> None:
    planted = PLANTED[name]
    scene = play(fragile, switches, tmp_path, planted)
    assert is_caught(planted, scene), (scene.canaries.leaked, scene.canaries.leaks, scene.unexpected)
    assert len(scene.reports) == len(scene.users) * len(scene.runs[scene.users[0]])  # all of the sandboxes looked
