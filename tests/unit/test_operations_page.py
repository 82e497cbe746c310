"""docs/operations.md names each metric and each reason of a repair that there is, and no other; its snippets work."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import Counter, Gauge, Histogram

import worker.metrics
from api.metrics import Metrics
from lanewise.redis_acl import BROKER_DATABASE, USERS, acl_lines

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "operations.md").read_text()
Metric = Counter | Gauge | Histogram


def first_cells(heading: str) -> list[str]:
    """Returns the first cell of each row of the table that follows a line of the page."""
    table = PAGE.split(f"\n{heading}\n", 1)[1].split("\n| ", 1)[1].split("\n\n", 1)[0]
    return re.findall(r"^(?:\| )?`([^`]+)`", table, re.MULTILINE)


def written(metrics: Iterable[object]) -> set[str]:
    """Returns metrics as the page writes them: as they are exported, with their labels."""
    found = set()
    for metric in metrics:
        if isinstance(metric, Counter | Gauge | Histogram):
            labels = "{" + ",".join(metric._labelnames) + "}" if metric._labelnames else ""
            found.add(f"{metric._name}{'_total' if isinstance(metric, Counter) else ''}{labels}")
    return found


def test_every_metric_is_explained() -> None:
    assert set(first_cells("## Metrics")) == written(vars(worker.metrics).values()) | written(vars(Metrics()).values())


def test_every_reason_of_a_repair_is_explained() -> None:
    code = "\n".join(path.read_text() for path in (ROOT / "worker").rglob("*.py"))
    reasons = set(re.findall(r'REPAIRED\.labels\("(\w+)"\)', code))
    assert len(reasons) > 5
    assert set(first_cells("Reasons of `lanewise_repaired_total`:")) == reasons


def test_the_lines_for_a_redis_of_ones_own_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    (snippet,) = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
    exec(snippet, {})  # noqa: S102 - the page's
    lines = capsys.readouterr().out.splitlines()
    assert lines == acl_lines("default", {user: f">password-of-{user}" for user in USERS}, (7, 2))
    assert [line.split()[1] for line in lines] == ["default", *USERS]
    text = PAGE.split("## A Redis of your own", 1)[1].split("\n## ", 1)[0]
    assert set(re.findall(r"redis://(\w+):…@HOST/(\d)", text)) == {
        ("api", "0"), ("worker", "0"), ("broker", str(BROKER_DATABASE))
    }  # fmt: skip
