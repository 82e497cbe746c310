"""Removes what sandboxes leave. By a program: a hostile one is deeper than Python recurses, or has a million files."""

from __future__ import annotations

import os
import subprocess

_PROGRAM = "/bin/sh"
# Who is root may remove anything; who is not may have to give itself the right back that an agent took away.
_SCRIPT = '[ "$(id -u)" = 0 ] || chmod -R u+rwx -- "$0"; exec rm -rf -- "$0"'
_ENVIRONMENT = {"PATH": os.defpath}


def start_removing(path: str) -> int:
    """Starts to remove a folder, and returns the pid of the child that does it."""
    nothing = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (0, 1, 2)]
    return os.posix_spawn(_PROGRAM, [_PROGRAM, "-c", _SCRIPT, path], _ENVIRONMENT, file_actions=nothing)


def remove(path: str, timeout_s: float) -> bool:
    """Removes a folder, and returns whether it is gone; one that takes longer stays in part."""
    try:
        os.rmdir(path)  # noqa: PTH106 - most are empty by then, and no program has to be started
    except FileNotFoundError:
        return True
    except OSError:
        return _remove_full(path, timeout_s)
    return True


def _remove_full(path: str, timeout_s: float) -> bool:
    try:
        subprocess.run(
            [_PROGRAM, "-c", _SCRIPT, path], env=_ENVIRONMENT, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            timeout=timeout_s, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return not os.path.lexists(path)
