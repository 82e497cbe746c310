"""The commands of whoever runs the service: `up`, `token`, `migrate`."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import Any

import click

from lanewise.cli.root import cli
from shared.errors import ConfigurationError

DATA_DIR = Path(".lanewise")
OWNER_DATABASE_URL = "LANEWISE_OWNER_DATABASE_URL"
REDIS_URL, DATABASE_URL = "--redis-url", "--database-url"
URL_VARIABLES = {REDIS_URL: "LANEWISE_UP_REDIS_URL", DATABASE_URL: "LANEWISE_UP_DATABASE_URL"}

data_dir_option = click.option(
    "--data-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=DATA_DIR,
    show_default=True,
    metavar="DIR",
    help="Where `lanewise up` keeps secrets, logs and data.",
)


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(1, 65_535), help="Of the first api.  [default: 8000, or the next free one]")
@click.option("--apis", type=click.IntRange(1, 64), default=1, show_default=True, help="Apis, on consecutive ports.")
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="Worker processes.")
@click.option("--slots", type=click.IntRange(1, 1024), default=8, show_default=True, help="Runs at once, per worker.")
@data_dir_option
@click.option(REDIS_URL, envvar=URL_VARIABLES[REDIS_URL], metavar="URL", help="Instead of the embedded Redis.")
@click.option(
    DATABASE_URL,
    envvar=URL_VARIABLES[DATABASE_URL],
    metavar="URL",
    help="Of a role that may create roles, instead of the embedded Postgres.",
)
@click.option("--flower-port", type=click.IntRange(1, 65_535), help="[default: 5555, or the next free one]")
@click.option("--no-flower", "flower", is_flag=True, flag_value=False, default=True, help="Start no Flower.")
def up(**options: Any) -> None:
    """Start the fleet and stay until Ctrl-C.

    Redis and Postgres are started too, unless their URLs are given. Prints `ready URL` once it takes runs.
    """
    _hide_urls()
    gc.disable()  # importing makes little garbage: to look for it takes a sixth of the time
    from lanewise.up import UpOptions  # noqa: PLC0415 - see the package
    from lanewise.up import up as start  # noqa: PLC0415

    gc.freeze()
    gc.enable()
    start(UpOptions(**options))


def _hide_urls() -> None:
    """Starts this program anew without the stores' URLs in its command line, which everybody on the machine can read.

    They are in its environment then, and in that of no process that it starts.
    """
    arguments = list(sys.argv[1:])
    moved: dict[str, str] = {}
    for option, variable in URL_VARIABLES.items():
        for at, argument in reversed(list(enumerate(arguments))):
            if argument == option and at + 1 < len(arguments):
                moved.setdefault(variable, arguments[at + 1])
                del arguments[at : at + 2]
            elif argument.startswith(f"{option}="):
                moved.setdefault(variable, argument.partition("=")[2])
                del arguments[at]
    if moved:
        anew = [sys.executable, "-m", "lanewise.cli", *arguments]
        os.execve(sys.executable, anew, {**os.environ, **moved})  # noqa: S606 - our own program, and no shell
    for variable in URL_VARIABLES.values():
        os.environ.pop(variable, None)


@cli.command()
@click.argument("user")
@click.option("--scope", "scopes", multiple=True, type=click.Choice(["runs", "admin"]), help="[default: runs]")
@click.option("--ttl", type=click.FloatRange(1), default=86_400, show_default=True, help="Seconds until it expires.")
@data_dir_option
def token(user: str, scopes: tuple[str, ...], ttl: float, data_dir: Path) -> None:
    """Print a bearer token for USER.

    The key is LANEWISE_JWT_SECRET, else it follows from LANEWISE_SECRET_KEY, else from the secrets in DIR.
    """
    from shared.tokens import DEFAULT_SCOPES, make_token  # noqa: PLC0415

    names = {claim: os.environ.get(f"LANEWISE_JWT_{claim.upper()}", "lanewise") for claim in ("issuer", "audience")}
    click.echo(make_token(_jwt_key(data_dir), user, scopes=scopes or DEFAULT_SCOPES, ttl_s=ttl, **names))


@cli.command()
def migrate() -> None:
    """Bring the database to the newest schema.

    From the environment: LANEWISE_OWNER_DATABASE_URL (a role that may create roles), LANEWISE_DATABASE_URL and
    LANEWISE_RUN_DATABASE_URL (the logins of the service and of the sandboxes, made if they are missing),
    LANEWISE_SECRET_KEY, and LANEWISE_AUDIT_RETENTION_DAYS (what is younger in the audit trail, no worker can remove).
    """
    from shared.migrate import head_revision  # noqa: PLC0415
    from shared.migrate import migrate as bring  # noqa: PLC0415
    from shared.settings import load_settings  # noqa: PLC0415

    settings = load_settings()
    owner_url = os.environ.get(OWNER_DATABASE_URL)
    if not owner_url:
        raise ConfigurationError(f"{OWNER_DATABASE_URL} is not set: the URL of a role that may create roles")
    if settings.run_database_url is None:
        raise ConfigurationError("LANEWISE_RUN_DATABASE_URL is not set: the login of the sandboxes")
    service_url, run_url = settings.database_url.get_secret_value(), settings.run_database_url.get_secret_value()
    for gap in bring(owner_url, service_url, run_url, settings.secrets, settings.audit_retention_days):
        click.echo(f"warning: sandboxes may {gap}; see docs/security.md#database", err=True)
    click.echo(f"the database is at revision {head_revision()}")


def _jwt_key(data_dir: Path) -> str:
    from shared.settings import jwt_keys  # noqa: PLC0415

    given = [_csv(os.environ.get(name, "")) for name in ("LANEWISE_SECRET_KEY", "LANEWISE_JWT_SECRET")]
    if not any(given):
        from lanewise.secrets import load_secrets  # noqa: PLC0415

        given[0] = (load_secrets(data_dir).secret_key,)
    return jwt_keys(*given)[0]


def _csv(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())
