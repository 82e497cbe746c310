"""The root command: which commands there are, and how errors end them."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from lanewise.errors import ApiError, StreamClosedError, UnreachableError
from shared.errors import ConfigurationError, LanewiseError

OK, FAILED, USAGE, NO_ANSWER, INTERRUPTED = 0, 1, 2, 3, 130

EPILOG = """\b
Exit codes:
  0  done; a watched run completed
  1  a watched run failed, was cancelled or ran out of time; a process did not start
  2  wrong usage or settings
  3  the service cannot be reached, or refused the request
  130  interrupted: a watched run goes on
"""


class CommandError(click.ClickException):
    """An error as people should see it: one line, with what to do."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: Any = None) -> None:
        """Writes the line to standard error."""
        click.echo(f"lanewise: {self.message}", file=file, err=True)


class Root(click.Group):
    """Keeps the commands in the order of their making; turns our errors into lines and exit codes."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Returns the names for `--help`."""
        del ctx
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs a command."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # a terminal without Unicode shows question marks, not a traceback
        try:
            return super().invoke(ctx)
        except LanewiseError as error:
            _fail(error)


def _fail(error: LanewiseError) -> NoReturn:
    from lanewise.render import clean  # noqa: PLC0415 - see the package

    fields = [(clean(item.get("field", "")), clean(item.get("message", ""))) for item in error.errors]
    details = [f"{field}: {message}" for field, message in fields if message not in error.message]
    message = "\n  ".join([clean(error.message), *details])
    raise CommandError(message + _cure(error), _exit_code(error)) from error


def _exit_code(error: LanewiseError) -> int:
    if isinstance(error, ApiError | UnreachableError | StreamClosedError):
        return NO_ANSWER
    return USAGE if isinstance(error, ConfigurationError) else FAILED


def _cure(error: LanewiseError) -> str:
    if isinstance(error, UnreachableError):
        return "; `lanewise up` prints the address of its fleet: give it with --url or LANEWISE_URL"
    if error.code == "unauthorized":
        return "; a new token: export LANEWISE_TOKEN=$(lanewise token USER)"
    return ""


@click.group(cls=Root, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lanewise")
def cli() -> None:
    """Runs agents for many users at once, each user in a lane of their own."""
