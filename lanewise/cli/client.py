"""The commands of a user: `agents`, `submit`, `watch`, `runs`, `show`, `cancel`, `retry`."""

from __future__ import annotations

import functools
import itertools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lanewise.cli.root import USAGE, CommandError, cli
from lanewise.cli.service import DATA_DIR

if TYPE_CHECKING:
    from lanewise.cli.output import Output
    from lanewise.client import Client

RETRY_S = 2.0  # somebody sits and waits: say soon what is wrong
STATUSES = ("queued", "running", "completed", "failed", "cancelled", "timed_out")

Command = Callable[..., Any]


def client_command(command: Command) -> Command:
    """Adds `--url`, `--token` and `--json`; hands the command a client and an output instead."""

    @click.option("--url", envvar="LANEWISE_URL", default="http://127.0.0.1:8000", show_default=True, show_envvar=True)
    @click.option("--token", envvar="LANEWISE_TOKEN", show_envvar=True, help="From `lanewise token USER`.")
    @click.option("--json", "as_json", is_flag=True, help="JSON lines: one event or object each.")
    @functools.wraps(command)
    def wrapped(url: str, token: str | None, as_json: bool, **arguments: Any) -> None:  # noqa: FBT001
        from lanewise.cli.output import Output  # noqa: PLC0415 - see the package
        from lanewise.client import Client  # noqa: PLC0415

        with Client(url, token or _no_token(), retry_s=RETRY_S) as client:
            sys.exit(command(client, Output(as_json=as_json), **arguments))

    return wrapped


def _no_token() -> str:
    own = (DATA_DIR / "secrets.json").exists()
    cure = (
        "export LANEWISE_TOKEN=$(lanewise token alice)" if own else "ask whoever runs the service for one, then set it"
    )
    raise CommandError(f"no token: {cure}  (LANEWISE_TOKEN or --token)", USAGE)


@cli.command()
@client_command
def agents(client: Client, output: Output) -> None:
    """List the agents that can be submitted to."""
    output.agents(client.agents())


@cli.command()
@click.argument("agent")
@click.option("--input", "text", default="{}", metavar="JSON|@FILE", help="The input; @- reads it from standard input.")
@click.option("--thread", metavar="ID", help="Continue a thread.  [default: a new one]")
@click.option("--watch", is_flag=True, help="Follow the run, print its result, exit with its outcome.")
@client_command
def submit(  # noqa: PLR0913, PLR0917 - click passes what the options are called
    client: Client,
    output: Output,
    agent: str,
    text: str,
    thread: str | None,
    watch: bool,  # noqa: FBT001
) -> int:
    """Submit a run to AGENT and print its id."""
    run = client.submit(agent, parse_input(text), thread_id=thread)
    if watch:
        return output.follow(client, run)
    output.submitted(run)
    return 0


@cli.command()
@click.argument("run_id", required=False)
@client_command
def watch(client: Client, output: Output, run_id: str | None) -> int:
    """Follow one run, or all your runs until Ctrl-C."""
    if run_id is None:
        return output.follow_all(client)
    return output.follow(client, client.run(run_id))


@cli.command()
@click.option("--status", type=click.Choice(STATUSES), help="Only these.")
@click.option("--agent", help="Only this agent's.")
@click.option("--limit", type=click.IntRange(1), default=20, show_default=True, help="At most so many, newest first.")
@client_command
def runs(client: Client, output: Output, status: str | None, agent: str | None, limit: int) -> None:
    """List your runs."""
    output.runs(list(itertools.islice(client.runs(status=status, agent=agent), limit)))


@cli.command()
@click.argument("run_id")
@client_command
def show(client: Client, output: Output, run_id: str) -> None:
    """Show a run with its result."""
    output.run(client.run(run_id))


@cli.command()
@click.argument("run_id")
@client_command
def cancel(client: Client, output: Output, run_id: str) -> None:
    """Ask to cancel a run; one that has ended stays as it is."""
    output.cancelled(client.cancel(run_id))


@cli.command()
@click.argument("run_id")
@click.option("--watch", is_flag=True, help="Follow the new run, print its result, exit with its outcome.")
@client_command
def retry(client: Client, output: Output, run_id: str, watch: bool) -> int:  # noqa: FBT001 - as in `submit`
    """Make a new run of one that failed, timed out or was cancelled.

    It goes on after the steps that the old one recorded.
    """
    run = client.retry(run_id)
    if watch:
        return output.follow(client, run)
    output.submitted(run)
    return 0


def parse_input(text: str) -> Any:
    """Returns the JSON of an `--input`, which may be `@FILE`.

    Raises:
        click.BadParameter: the file cannot be read, or it is not JSON.
    """
    try:
        if text.startswith("@"):
            text = sys.stdin.read() if text == "@-" else Path(text[1:]).read_text(encoding="utf-8")
        return json.loads(text)
    except OSError as error:
        raise click.BadParameter(f"{text[1:]} cannot be read: {error.strerror}", param_hint="--input") from None
    except ValueError as error:
        hint = "" if text.lstrip().startswith(("{", "[", '"')) else " (a file is given as @FILE)"
        raise click.BadParameter(f"not JSON: {error}{hint}", param_hint="--input") from None
