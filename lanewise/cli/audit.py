"""`lanewise audit`."""

from __future__ import annotations

import sys
from contextlib import closing
from pathlib import Path

import click

from lanewise.cli.doctor import fleet_option, use_fleet
from lanewise.cli.root import FAILED, NO_ANSWER, OK, CommandError, cli


class Seal(click.ParamType[tuple[int, str]]):
    """`NUMBER:MAC` of a seal."""

    name = "seal"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, str]:
        """Returns both."""
        number, _, mac = value.partition(":")
        if not number.isdecimal() or not mac:
            self.fail(f"{value!r} is not NUMBER:MAC, as this command and the workers' logs print it", param, ctx)
        return int(number), mac


@cli.group()
def audit() -> None:
    """The audit trail."""


@audit.command()
@fleet_option
@click.option(
    "--seal",
    "seals",
    type=Seal(),
    multiple=True,
    metavar="NUMBER:MAC",
    help="A seal that was there, from an earlier look or a worker's log.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON lines: one flaw each, then the sum.")
def verify(data_dir: Path | None, seals: tuple[tuple[int, str], ...], as_json: bool) -> None:  # noqa: FBT001
    """Look for records that were changed, removed, added or cut off; exit 1 if there are any.

    Looks with the settings of the environment, as api and worker have them, or at the fleet of a `lanewise up`.
    Nothing is changed.
    """
    from lanewise.cli.output import Output  # noqa: PLC0415 - see the package
    from shared.audit import keys_of  # noqa: PLC0415
    from shared.audit_check import Examination, examine  # noqa: PLC0415
    from shared.database import Database  # noqa: PLC0415
    from shared.errors import UnavailableError  # noqa: PLC0415
    from shared.settings import load_settings  # noqa: PLC0415

    known = dict(seals)
    for number, mac in seals:
        if known[number] != mac:
            raise click.UsageError(f"seal {number} is given with two MACs")
    use_fleet(data_dir)
    settings = load_settings()
    examination = Examination(keys_of(settings), known)
    with closing(Database(settings.database_url.get_secret_value(), pool_size=1)) as database:
        try:
            flaws = Output(as_json=as_json).flaws(examine(database, examination), examination)
        except UnavailableError as error:
            raise CommandError(error.message, NO_ANSWER) from error
    sys.exit(FAILED if flaws else OK)
