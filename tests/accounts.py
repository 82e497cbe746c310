"""Running our Python as an ordinary user, from tests that run as root."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest


def as_nobody() -> tuple[str, ...]:
    """Returns what to put before a command so that it runs as `nobody`, or skips.

    Where the interpreter or the checkout is closed to others, it keeps the right to read them, and no other right.
    """
    plain = ("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups")
    reading = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
    for prefix in (plain, (*plain, *reading)):
        argv = (*prefix, sys.executable, "-c", "import api.app, lanewise.up")  # nearly all that a fleet reads
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(argv, cwd="/", check=True, capture_output=True, timeout=20)
            return prefix
    pytest.skip("setpriv cannot run this Python as nobody")
