"""`python -m lanewise.cli`: the command line where its script is not on the PATH."""

from __future__ import annotations

from lanewise.cli import main

main(prog_name="lanewise")
