"""The commands of an administrator: `limits`, `grants`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from lanewise.cli.client import client_command
from lanewise.cli.root import cli

if TYPE_CHECKING:
    from lanewise.cli.output import Output
    from lanewise.client import Client

ENDING_SOON = timedelta(seconds=5)


@cli.command()
@click.argument("user")
@click.option("--concurrent", type=click.IntRange(1), metavar="N", help="Runs in progress at once.")
@click.option("--queued", type=click.IntRange(1), metavar="N", help="Runs waiting.")
@click.option("--reset", is_flag=True, help="Back to the fleet's limits, but for those given here.")
@client_command
def limits(  # noqa: PLR0913, PLR0917 - click passes what the options are called
    client: Client,
    output: Output,
    user: str,
    concurrent: int | None,
    queued: int | None,
    reset: bool,  # noqa: FBT001
) -> None:
    """Show the limits of USER, or change them. Asks for a token with the scope `admin`."""
    given = {"concurrent_runs": concurrent, "queued_runs": queued}
    if not reset and not any(given.values()):
        return output.limits(client.limits(user))
    present = {} if reset else client.limits(user)
    return output.limits(client.set_limits(user, **{name: value or present.get(name) for name, value in given.items()}))


@cli.command()
@click.argument("user")
@click.option("--grant", "granted", multiple=True, metavar="TOOL", help="A tool that the user may call from now on.")
@click.option(
    "--for", "seconds", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="[default: for ever]"
)
@click.option("--revoke", "revoked", multiple=True, metavar="TOOL", help="A tool that the user may call no longer.")
@client_command
def grants(  # noqa: PLR0913, PLR0917 - click passes what the options are called
    client: Client,
    output: Output,
    user: str,
    granted: tuple[str, ...],
    seconds: float | None,
    revoked: tuple[str, ...],
) -> None:
    """Show the tools that USER has a grant for, or change them. Asks for a token with the scope `admin`.

    Attempts of runs that begin from now on have the new grants, those under way keep the old ones.
    """
    if seconds is not None and not granted:
        raise click.UsageError("--for says how long what --grant names is granted")
    items = client.grants(user)
    if granted or revoked:
        now = datetime.now(UTC)
        end = None if seconds is None else (now + timedelta(seconds=seconds)).isoformat()
        kept = {
            item["tool"]: item["expires_at"]
            for item in items
            if item["tool"] not in revoked and not _has_ended(item["expires_at"], now)
        }
        items = client.set_grants(user, kept | dict.fromkeys(granted, end))
    return output.grants(items)


def _has_ended(expires_at: str | None, now: datetime) -> bool:
    """Tells whether a grant has ended, or will have by the time at which the api looks, whose clock may be ahead."""
    return expires_at is not None and datetime.fromisoformat(expires_at) <= now + ENDING_SOON
