"""Figures, and the report made of them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lanewise.embedded.binaries import postgres_bin, redis_program

MAX_QUIET_LOAD = 0.5


@dataclass(frozen=True)
class Figure:
    """One line of the report: the median of a measurement that was repeated.

    Args:
        name: what was measured.
        samples: one for each repetition, at least one.
        unit: of the samples.
        target: what it should be, for people; empty: no aim.
    """

    name: str
    samples: Sequence[float]
    unit: str
    target: str = ""

    @property
    def median(self) -> float:
        """The middle one."""
        return statistics.median(self.samples)

    def to_json(self) -> dict[str, Any]:
        """Returns the figure for `--json`."""
        return {"name": self.name, "unit": self.unit, "median": self.median, "min": min(self.samples),
                "max": max(self.samples), "samples": list(self.samples), "target": self.target}  # fmt: skip


def table(title: str, figures: Sequence[Figure]) -> str:
    """Returns the figures as plain text under their title."""
    head = (title, "median", "min - max", "unit", "target")
    spread = [f"{_short(min(f.samples))} - {_short(max(f.samples))}" if len(f.samples) > 1 else "" for f in figures]
    rows = [(f.name, _short(f.median), range_, f.unit, f.target) for f, range_ in zip(figures, spread, strict=True)]
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(row: Sequence[str]) -> str:
        name, *numbers = row[:3]
        cells = [name.ljust(widths[0]), *(text.rjust(width) for text, width in zip(numbers, widths[1:3], strict=True))]
        return "  ".join([*cells, row[3].ljust(widths[3]), row[4]]).rstrip()

    return "\n".join([line(head), "-" * len(line(head)), *map(line, rows)])


def percentile(samples: Sequence[float], percent: int) -> float:
    """Returns the value that `percent` of the samples do not exceed."""
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def machine() -> dict[str, Any]:
    """Returns where this runs, and how busy it was before."""
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": _processor(),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
        "postgres": _version(postgres_bin() / "postgres"),
        "redis": _version(redis_program()),
        "celery": importlib.metadata.version("celery"),
        "load_average": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(program: Path) -> str:
    words = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=True
    ).stdout.split()
    return next((word.removeprefix("v=") for word in words if word.removeprefix("v=")[0].isdigit()), "unknown")


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
