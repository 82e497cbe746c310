"""`python -m tests.chaos [PART]`: the long fault suite.

`python -m tests.chaos breaks [NAME]` and `leaks [NAME]`: proof that it finds.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
from collections.abc import Callable

from tests.chaos import audit, canaries, fuzz, interrupts, lanes, semaphore, storm, stream
from tests.chaos.part import Options, say

# Each part prints its report and tells whether all was well.
PARTS: dict[str, Callable[[Options], bool]] = {
    "audit": audit.run,
    "canaries": canaries.run,
    "fuzz": fuzz.run,
    "interrupts": interrupts.run,
    "lanes": lanes.run,
    "semaphore": semaphore.run,
    "storm": storm.run,
    "stream": stream.run,
}


def main() -> int:
    """Runs what the command line asks for; 1 if anything was wrong."""
    for name in [name for name in os.environ if name.startswith("LANEWISE_")]:
        del os.environ[name]  # what this shell has set must not decide what a fleet of ours does
    parser = argparse.ArgumentParser(prog="python -m tests.chaos")
    parser.add_argument(
        "part", nargs="?", choices=[*PARTS, "breaks", "leaks"], help="default: all parts, one after the other"
    )
    parser.add_argument("names", nargs="*", help="of breaks or leaks: these only")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000))
    parser.add_argument("--runs", type=int)
    parser.add_argument("--faults", type=int)
    parser.add_argument("--minutes", type=float, help="after these no new fault is made")
    given = parser.parse_intermixed_args()
    if given.part == "breaks":
        from tests.chaos.breaks import run as run_breaks  # noqa: PLC0415 - nothing else needs it

        return 0 if run_breaks(given.names, given.seed) else 1
    if given.part == "leaks":
        return 0 if canaries.plant(given.names) else 1
    options = Options(given.seed, given.runs, given.faults, given.minutes)
    results = {name: PARTS[name](options) for name in ([given.part] if given.part else PARTS)}
    for name, well in results.items():
        say(f"chaos {name}: {'passed' if well else 'FAILED'}")
    return 0 if all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
