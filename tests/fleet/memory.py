"""Reads what a process has in its memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def readable(pid: int | str = "self") -> Iterator[bytes]:
    """Yields each readable area of a process's memory but the code of libraries.

    Raises:
        PermissionError: the system does not let this process read that one.
    """
    with Path(f"/proc/{pid}/maps").open() as maps, Path(f"/proc/{pid}/mem").open("rb", buffering=0) as content:
        for line in maps.read().splitlines():  # at once: reading changes our own
            area, rights, *_, path = (*line.split(maxsplit=5), "")[:6]
            if rights[0] != "r" or path.startswith("[v") or ("w" not in rights and path.startswith("/")):
                continue
            start, end = (int(part, 16) for part in area.split("-"))
            with suppress(OSError):  # another thread has let go of it
                content.seek(start)
                yield content.read(end - start)
