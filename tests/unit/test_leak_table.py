"""The table of planted leaks in the docs is the one that can be run."""

from __future__ import annotations

import re
from pathlib import Path

from tests.fleet.leaks import PLANTED, Planted
from tests.fleet.test_isolation import CHOSEN

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
ROW = re.compile(r"^\| (\*?)([^|*]+)\*? \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)


def describe(planted: Planted) -> tuple[str, set[str]]:
    return planted.layer, set(planted.seen) or {"nowhere"}


def test_the_documented_leaks_are_those_that_are_planted() -> None:
    section = PAGE.read_text().partition("## Isolation, and how it is shown")[2].partition("\n## ")[0]
    rows = {name: (layer, set(seen.split(", "))) for _, name, layer, seen in ROW.findall(section) if name != "leak"}
    rows.pop("---", None)
    assert rows == {name: describe(planted) for name, planted in PLANTED.items()}
    assert {name for star, name, *_ in ROW.findall(section) if star} == set(CHOSEN)
    assert sum(bool(planted.seen) for planted in PLANTED.values()) == 20
