"""The commands of whoever writes agents: `new-agent`, `run-agent`."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lanewise.cli.client import parse_input
from lanewise.cli.root import FAILED, CommandError, cli

if TYPE_CHECKING:
    from lanewise.authoring.local_run import LocalRun
    from lanewise.authoring.memory import Artifact
    from lanewise.authoring.package import NewPackage
    from lanewise.cli.output import Output

SANDBOX_ENV = "LANEWISE_SANDBOX_ENV"
SANDBOX_MEMORY = "LANEWISE_SANDBOX_MEMORY_MB"
MEMORY_HELP = f"Of the sandbox.  [env var: {SANDBOX_MEMORY}; default: 1024]"


@cli.command("new-agent")
@click.argument("name")
@click.option(
    "--dir", "folder", type=click.Path(path_type=Path, file_okay=False), default=Path(), metavar="DIR",
    help="Where the folder NAME is made.  [default: here]",
)  # fmt: skip
def new_agent(name: str, folder: Path) -> None:
    """Write a package to start a new agent from.

    It has an agent, a tool and a test, and can be installed as it is.

    NAME is what the agent is called when it is submitted, e.g. `word-count`.
    """
    from lanewise.authoring.package import NewPackage  # noqa: PLC0415
    from lanewise.cli.output import Output  # noqa: PLC0415

    made = NewPackage.named(name)
    home = folder / name
    Output(as_json=False).steps(f"{home} has an agent, a tool and a test:", made.write(home), next_steps(made, home))


def next_steps(made: NewPackage, home: Path) -> list[tuple[str, str]]:
    """Returns what to do with a new package: what it is for, and what to type."""
    example = """'{"text": "one two three"}'"""
    return [
        (
            "run it, in a sandbox of its own",
            f"cd {shlex.quote(str(home))}\nlanewise run-agent {made.package}.agent:{made.cls} --input {example}",
        ),
        ("test it, in the process of the test", "python -m pytest"),
        ("install it where the workers run", "python -m pip install --editable ."),
        ("start the workers again: they look for agents when they start", "lanewise up"),
        ("submit to it, from another terminal", f"lanewise submit {made.name} --input {example} --watch"),
    ]


@cli.command("run-agent")
@click.argument("target", metavar="PACKAGE:CLASS")
@click.option("--input", "text", default="{}", metavar="JSON|@FILE", help="The input; @- reads it from standard input.")
@click.option("--granted", multiple=True, metavar="TOOL", help="A tool that the user has a grant for.")
@click.option("--artifacts", type=click.Path(path_type=Path, file_okay=False), metavar="DIR", help="Save files here.")
@click.option("--time-limit", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="[default: the agent's]")
@click.option("--memory", type=click.IntRange(64), default=1024, envvar=SANDBOX_MEMORY, metavar="MIB", help=MEMORY_HELP)
@click.option("--json", "as_json", is_flag=True, help="JSON lines: each event, then the run.")
def run_agent(  # noqa: PLR0913, PLR0917 - click passes what the options are called
    target: str,
    text: str,
    granted: tuple[str, ...],
    artifacts: Path | None,
    time_limit: float | None,
    memory: int,
    as_json: bool,  # noqa: FBT001
) -> None:
    """Run one agent in a sandbox, without a fleet.

    The sandbox, its limits and its supervision are those of a worker; state, steps and files are kept in memory. There
    is no database: an agent that needs one (run.db, db_step, documents) runs on `lanewise up`. Ctrl-C cancels the run;
    a second one ends it.
    """
    from lanewise.authoring.sandboxed import SandboxedRun, interruptible, order_for, quieten, zygote_with  # noqa: PLC0415
    from lanewise.board import RunView  # noqa: PLC0415
    from lanewise.cli.output import Output  # noqa: PLC0415

    quieten()
    run_input, output = parse_input(text), Output(as_json=as_json)
    passed = [name for name in os.environ.get(SANDBOX_ENV, "").split(",") if name]
    with contextlib.ExitStack() as stack:
        with output.busy("starting a sandbox"):
            zygote, entry = stack.enter_context(zygote_with(target, memory, passed))
        sandboxed = SandboxedRun(order_for(entry, run_input, time_limit, granted), zygote)
        view = RunView.of(sandboxed.run.view())
        with interruptible(sandboxed, lambda note: setattr(view, "note", note)):
            output.play(view, sandboxed.events())
    code = output.ended(sandboxed.run.view())
    _after(sandboxed.run, entry["max_attempts"], output, artifacts)
    sys.exit(code)


def _after(run: LocalRun, max_attempts: int, output: Output, folder: Path | None) -> None:
    """Saves the files, and says what an author wants to know besides the result."""
    from lanewise.authoring.trace import own_frames  # noqa: PLC0415

    output.aside(*own_frames(run.trace))
    if run.row.error and run.row.error["retryable"] and max_attempts > 1:
        pause = "" if run.retry is None or run.retry.after_s is None else f" after {run.retry.after_s:g} s"
        output.aside(f"a fleet would try it again{pause}: {max_attempts} attempts in all")
    for artifact in run.artifacts.values():
        where = f"saved in {folder}" if folder else "--artifacts DIR saves it"
        if folder is not None:
            _save(folder, artifact)
        output.aside(f"artifact {artifact.name} ({artifact.content_type}, {len(artifact.content):,} bytes): {where}")


def _save(folder: Path, artifact: Artifact) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / artifact.name).write_bytes(artifact.content)  # its name was checked: it has no separator
    except OSError as error:
        raise CommandError(f"{folder / artifact.name} cannot be written: {error.strerror}", FAILED) from None
