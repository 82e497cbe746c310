"""The command line, `lanewise`. Heavy imports are made by the commands that need them, so that `--help` is quick."""

from __future__ import annotations

from lanewise.cli import admin, audit, author, client, doctor, service  # noqa: F401 - each adds its commands
from lanewise.cli.root import cli

__all__ = ["main"]

main = cli
