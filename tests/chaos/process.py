"""A process of ours that takes a line and answers a line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
END_S = 10


class Helper:
    """Runs a module with one argument or none; ends with its stdin.

    Args:
        module: of `tests.chaos`.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._name = module
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            (sys.executable, "-m", f"tests.chaos.{module}", *arguments),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT, text=True,
        )  # fmt: skip

    def tell(self, line: str) -> None:
        """Sends a line that nothing is answered to."""
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def ask(self, line: str) -> Any:
        """Sends a line and returns the answer."""
        with self._lock:
            self.tell(line)
            return self.answer()

    def answer(self) -> Any:
        """Returns the next answer."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self._name} has ended"
        return json.loads(line)

    def end(self) -> None:
        """Ends it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.kill()
        self._process.wait(END_S)
        self._process.stdout.close()
