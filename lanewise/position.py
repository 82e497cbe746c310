"""`Position`: how far a consumer of a user's events has come, in a file."""

from __future__ import annotations

from pathlib import Path


class Position:
    """Survives the death of the process at any moment.

    Args:
        path: of the file, one for each user and consumer; its folder is there.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._saved: int | None = None

    def load(self) -> int | None:
        """Returns the `seq` that was saved last, None if there is no file yet.

        Raises:
            ValueError: the file holds something else.
            OSError: it cannot be read.
        """
        try:
            text = self._path.read_text("ascii").strip()
        except FileNotFoundError:
            return None
        if not text.isdecimal():
            raise ValueError(f"{self._path} holds no position of an event stream")
        self._saved = int(text)
        return self._saved

    def save(self, seq: int) -> None:
        """Replaces the file's content as a whole.

        Raises:
            OSError: it cannot be written.
        """
        if seq == self._saved:
            return
        fresh = self._path.with_name(f"{self._path.name}.new")
        fresh.write_text(f"{seq}\n", "ascii")
        fresh.replace(self._path)
        self._saved = seq
