"""Where an agent raised, as its author wants to see it."""

from __future__ import annotations

import asyncio
import concurrent.futures
from pathlib import Path

import pydantic

import worker

# What calls an agent and checks its input. Its own lines, and those of libraries that it calls, are left.
MACHINERY = tuple(
    f"  {Path(str(module.__file__)).parent}/" for module in (worker, asyncio, concurrent.futures, pydantic)
)


def own_frames(trace: str) -> list[str]:
    """Returns the lines of a trace (of `worker.core.describe_trace`) that are below what called the agent, if any."""
    lines = [line for line in trace.splitlines() if not line.startswith(MACHINERY)]
    return lines if any(line.startswith("  ") for line in lines) else []
