"""The commands of an administrator: `limits`, `grants`, `users delete`."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from lanewise.cli.client import client_command
from lanewise.cli.root import INTERRUPTED, OK, cli

if TYPE_CHECKING:
    from lanewise.cli.output import Output
    from lanewise.client import Client

ENDING_SOON = timedelta(seconds=5)
LOOK_S, LONGEST_LOOK_S = 1.0, 30.0  # between two looks


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


@cli.group()
def users() -> None:
    """The users of the service."""


@users.command("delete")
@click.argument("user")
@click.option("--yes", is_flag=True, help="Do not ask.")
@client_command
def delete_user(client: Client, output: Output, user: str, yes: bool) -> int:  # noqa: FBT001 - as in `limits`
    """Delete all that USER has, everywhere, and wait until it is gone. Asks for a token with the scope `admin`.

    Runs are cancelled, tokens refused. It cannot be undone. Only the audit trail stays.
    """
    if not yes:
        click.confirm(f"Delete all that {user!r} has? This cannot be undone.", abort=True, err=True)
    try:
        with output.busy("deleting"):
            deletion, pause_s = client.delete_user(user), LOOK_S
            while deletion["status"] == "deleting":
                time.sleep(pause_s)
                deletion, pause_s = client.deletion(user), min(2 * pause_s, LONGEST_LOOK_S)  # each look is audited
    except KeyboardInterrupt:
        output.aside("if the service has accepted it, the deletion goes on; the same command waits for its end")
        return INTERRUPTED
    output.deleted(deletion)
    return OK


def _has_ended(expires_at: str | None, now: datetime) -> bool:
    """Tells whether a grant has ended, or will have by the time at which the api looks, whose clock may be ahead."""
    return expires_at is not None and datetime.fromisoformat(expires_at) <= now + ENDING_SOON
