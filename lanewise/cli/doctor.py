"""`lanewise doctor`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from lanewise.cli.root import FAILED, OK, cli
from lanewise.cli.service import DATA_DIR

fleet_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help=f"Of a running `lanewise up`.  [default: {DATA_DIR}, unless LANEWISE_DATABASE_URL is set]",
)


def use_fleet(data_dir: Path | None) -> None:
    """Makes the settings in the environment those of the fleet that is to be looked at."""
    if data_dir is not None or "LANEWISE_DATABASE_URL" not in os.environ:
        from lanewise.running import take_settings  # noqa: PLC0415 - see the package

        take_settings(data_dir or DATA_DIR)


@cli.command()
@fleet_option
@click.option("--json", "as_json", is_flag=True, help="JSON lines: one check each.")
def doctor(data_dir: Path | None, as_json: bool) -> None:  # noqa: FBT001
    """Check everything that the fleet depends on; exit 1 if something is wrong, with the reason and the cure.

    Looks with the settings of the environment, as api and worker have them, or at the fleet of a `lanewise up`.
    Nothing is changed.
    """
    from lanewise.cli.output import Output  # noqa: PLC0415 - see the package
    from lanewise.doctor.examination import examine  # noqa: PLC0415

    use_fleet(data_dir)
    findings = Output(as_json=as_json).findings(examine())
    sys.exit(FAILED if any(finding.status == "failed" for finding in findings) else OK)
