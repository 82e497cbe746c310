"""`python -m benchmarks [NAME...] [--quick] [--json FILE]`."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import (
    audit,
    cancel,
    churn,
    context,
    cost,
    detection,
    events,
    fairness,
    gateway,
    latency,
    sandbox,
    sockets,
    throughput,
    tools,
    walls,
    workflow,
)
from benchmarks.fleet import ROOT, Lab
from benchmarks.report import MAX_QUIET_LOAD, Figure, machine, table
from shared.errors import LanewiseError

BENCHMARKS: dict[str, Callable[[Lab], list[Figure]]] = {
    "throughput": throughput.measure,
    "latency": latency.measure,
    "context": context.measure,
    "tools": tools.measure,
    "sandbox": sandbox.measure,
    "events": events.measure,
    "workflow": workflow.measure,
    "audit": audit.measure,
    "fairness": fairness.measure,
    "cost": cost.measure,
    "detection": detection.measure,
    "cancel": cancel.measure,
    "gateway": gateway.measure,
    "sockets": sockets.measure,
    "churn": churn.measure,
    "walls": walls.measure,
}


def main() -> None:
    """Measures, prints, and leaves nothing behind."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="fewer repetitions")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    options = parser.parse_args()
    if unknown := sorted(set(options.names) - set(BENCHMARKS)):
        parser.error(f"no benchmark is called {', '.join(unknown)}; there are {', '.join(BENCHMARKS)}")
    signal.signal(signal.SIGTERM, _interrupt)
    os.environ["PYTHONPATH"] = str(ROOT)  # zygotes of our own find the agents by it
    try:
        report = _run(options.names or list(BENCHMARKS), quick=options.quick)
    except LanewiseError as error:
        sys.exit(f"benchmarks: {error.message}")
    except KeyboardInterrupt:
        sys.exit(130)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n")


def _run(names: list[str], *, quick: bool) -> dict[str, Any]:
    began = time.monotonic()
    where = machine()
    print(", ".join(f"{name.replace('_', ' ')} {value}" for name, value in where.items()))
    if where["load_average"] > MAX_QUIET_LOAD:
        print(f"warning: the machine is busy (load average above {MAX_QUIET_LOAD}): compare ratios, not times")
    figures: dict[str, list[Figure]] = {}
    with Lab(quick=quick) as lab:
        for name in names:
            figures[name] = BENCHMARKS[name](lab)
            print(f"\n{table(name, figures[name])}", flush=True)
    print(f"\n{time.monotonic() - began:.0f} s")
    return {"machine": where, "quick": quick} | {
        name: [figure.to_json() for figure in found] for name, found in figures.items()
    }


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
