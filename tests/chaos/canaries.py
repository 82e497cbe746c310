"""The part `canaries`: a hundred users and thousands of runs, and everything that anybody gets to see of them."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.chaos.conductor import api_urls
from tests.chaos.part import Options, say
from tests.fleet.fleet import Fleet, marks
from tests.fleet.leaks import PLANTED, breakable, is_caught, play
from tests.fleet.scene import OWN, Scene

USERS = 100
RUNS = 5_000
SLOTS = 16  # of each worker
CAUGHT_UP_S = 120.0
SHOWN = 20


def run(options: Options) -> bool:
    """Plays one large scene and reports; tells whether everybody saw all of their own and nothing else."""
    began, runs_each = time.monotonic(), -(-(options.runs or RUNS) // USERS)
    say(f"canaries: {USERS} users with {runs_each} runs each")
    sizes = ("--apis", "2", "--workers", "2", "--slots", str(SLOTS), "--no-flower")
    with Fleet.start(*sizes, env={"LANEWISE_SWEEP_S": "2", "LANEWISE_LEASE_S": "15"}) as fleet:
        scene = Scene(
            fleet, users=USERS, runs_each=runs_each, patience_s=CAUGHT_UP_S, urls=api_urls(fleet),
            tell=lambda what: say(f"{time.monotonic() - began:6.0f} s: {what}"),
        )  # fmt: skip
        scene.play()
    say(f"canaries: {time.monotonic() - began:.0f} s")
    return _report(scene, USERS * runs_each)


def _report(scene: Scene, runs: int) -> bool:
    seen: Counter[str] = Counter()
    places: dict[str, set[str]] = {}
    for (_, way, place), count in scene.canaries.own.items():
        seen[way] += count
        places.setdefault(way, set()).add(place)
    say("way                       own seen  places  foreign")
    for way in sorted(OWN.keys() | seen.keys() | scene.canaries.leaked.keys()):
        foreign = scene.canaries.leaked[way]
        say(f"{way:24} {seen[way]:9} {len(places.get(way, ())):7} {foreign:8}")
    unseen, foreign = scene.unseen(), sum(scene.canaries.leaked.values())
    for leak in scene.canaries.leaks[:SHOWN]:
        say(f"LEAK {leak}")
    for who, missed in list(unseen.items())[:SHOWN]:
        say(f"NOT SEEN by {who}: {', '.join(sorted(missed))}")
    for answer in scene.unexpected[:SHOWN]:
        say(f"UNEXPECTED {answer}")
    say(f"{len(scene.users)} users, {runs} runs, {len(scene.reports)} sandboxes looked, {scene.canaries.made} canaries")
    say(f"{foreign} foreign sightings; who asks for what is another's gets {sorted(scene.answers_about_others)}")
    whole = not unseen and not scene.unexpected and len(scene.reports) == runs
    return whole and not foreign and scene.answers_about_others == {(404, "not_found")}


def plant(names: Sequence[str]) -> bool:
    """Plants leaks one at a time; tells whether each was seen where it must be, and nowhere else."""
    well: dict[str, bool] = {}
    with tempfile.TemporaryDirectory(prefix="lanewise-leaks-", dir=marks()) as folder:
        switches = Path(folder, "switches")
        switches.mkdir()
        with breakable(switches) as fleet:
            for number, name in enumerate(names or PLANTED):
                meeting = Path(folder, str(number))
                meeting.mkdir()
                scene = play(fleet, switches, meeting, PLANTED[name])
                well[name] = is_caught(PLANTED[name], scene)
                _tell(name, scene, well=well[name])
    planted = [well[name] for name in well if PLANTED[name].seen]
    controls = [well[name] for name in well if not PLANTED[name].seen]
    say(f"{sum(planted)} of {len(planted)} leaks were caught, {sum(controls)} of {len(controls)} controls hold")
    return all(well.values())


def _tell(name: str, scene: Scene, *, well: bool) -> None:
    seen = ", ".join(f"{way}: {count}" for way, count in sorted(scene.canaries.leaked.items()))
    mark = "as it must be" if well else "NOT AS IT MUST BE"
    say(f"{mark}: {name} ({PLANTED[name].layer}): {seen or 'nothing is seen'}")
