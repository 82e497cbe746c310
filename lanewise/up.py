"""`lanewise up`: the whole fleet in one terminal, on servers of its own or on given ones."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from lanewise.fleet import FLOWER_USER, KINDS, Fleet, flower_installed
from lanewise.ports import LOOPBACK, free_port, listen, reserve
from lanewise.running import telling_settings
from lanewise.secrets import ensure_secrets, make_data_dir
from lanewise.stores import Stores
from lanewise.supervisor import StopRequested, Supervisor
from shared import linux
from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.tokens import make_token

API_PORT = 8000
FLOWER_PORT = 5555
TOKENS = {"alice": ("runs",), "bob": ("runs",), "admin": ("runs", "admin")}  # to try it with: user and scopes
TOKEN_TTL_S = 12 * 3600
FLEET_STAGE, STORES_STAGE = 0, 2  # of stopping; Flower's is between them
PACKAGES = ("api", "worker", "shared", "lanewise")


@dataclass(frozen=True)
class UpOptions:
    """The options of `lanewise up`.

    Args:
        host: where the apis listen.
        port: of the first api; None: 8000 or the next free one.
        apis: how many, on consecutive ports.
        workers: how many.
        slots: runs at once, per worker.
        data_dir: secrets, logs and the data of embedded servers.
        redis_url: default: an embedded one.
        database_url: of a role that may create roles; default: an embedded one.
        flower_port: None: 5555 or the next free one.
        flower: whether to start it.
    """

    host: str = LOOPBACK
    port: int | None = None
    apis: int = 1
    workers: int = 1
    slots: int = 8
    data_dir: Path = Path(".lanewise")
    redis_url: str | None = field(default=None, repr=False)
    database_url: str | None = field(default=None, repr=False)
    flower_port: int | None = None
    flower: bool = True


def up(options: UpOptions) -> None:
    """Starts the fleet, prints `ready URL` on stdout once it takes runs, and stays until a signal asks to stop.

    Belongs in the main thread: it handles SIGINT, SIGTERM and SIGHUP.

    Raises:
        ConfigurationError: an option or setting is wrong, a port is taken, a part is missing.
        StartError: a process does not come up; the message holds its last lines.
    """
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    _check_folder()
    linux.hide_memory()
    make_data_dir(options.data_dir)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_only_one(options.data_dir))
        _put_old_logs_aside(options.data_dir / "log")
        secrets = ensure_secrets(options.data_dir)
        stores = Stores(options.data_dir, secrets, options.database_url, options.redis_url)
        stack.callback(stores.close)
        stack.enter_context(telling_settings(options.data_dir, stores.env("api")))
        supervisor = stack.enter_context(Supervisor(lambda text: console.print(text, markup=False)))
        fleet = _plan(options, stores, secrets.flower_password, stack)
        console.print(f"[dim]starting in {escape(str(options.data_dir.absolute()))} …[/]")
        with contextlib.suppress(StopRequested):
            for gap in stores.start(supervisor, STORES_STAGE):
                console.print(f"[yellow]Warning[/]   sandboxes may {escape(gap)}   [dim]docs/security.md#database[/]")
            fleet.start(supervisor, FLEET_STAGE)
            fleet.wait_ready(supervisor)
            _summarize(console, options, fleet, stores.settings)
            print(f"ready {fleet.urls[0]}", flush=True)  # noqa: T201 - the line that scripts wait for
            supervisor.run()
        console.print(f"[dim]stopping; runs get {fleet.drain_s:g} s, a second signal hands them back at once …[/]")
    console.print("[dim]stopped[/]")


def _plan(options: UpOptions, stores: Stores, flower_password: str, stack: contextlib.ExitStack) -> Fleet:
    """Takes the ports, before anything is started; they are given back before anything is stopped."""
    listeners = listen(options.host, options.port, API_PORT, options.apis)
    for listener in listeners:
        stack.callback(listener.close)
    flower_port = None
    if options.flower and flower_installed():
        flower_port, mark = reserve(options.flower_port, FLOWER_PORT)
        stack.callback(mark.close)
    return Fleet(
        host=options.host,
        listeners=listeners,
        metrics_ports=[free_port() for _ in range(options.workers)],
        flower_port=flower_port,
        flower_password=flower_password,
        slots=options.slots,
        drain_s=stores.settings.drain_s,
        envs={kind: stores.env(kind) for kind in KINDS},
        logs=options.data_dir.absolute() / "log",
    )


def _summarize(console: Console, options: UpOptions, fleet: Fleet, settings: Settings) -> None:
    for url in fleet.urls:
        console.print(f"[bold]Console[/]   {url}/   [dim]the API's page: {url}/docs[/]")
    if fleet.flower_port is not None:
        secrets = escape(str(options.data_dir / "secrets.json"))
        console.print(
            f"[bold]Flower[/]    http://{LOOPBACK}:{fleet.flower_port}/   "
            f"[dim]user {FLOWER_USER}, password: flower_password in {secrets}[/]"
        )
    elif options.flower:
        console.print("[bold]Flower[/]    not installed: pip install 'lanewise\\[flower]'")
    for number, port in enumerate(fleet.metrics_ports, 1):
        console.print(f"[bold]Metrics[/]   http://{LOOPBACK}:{port}/metrics   [dim]worker.{number}[/]")
    console.print(f"[bold]Logs[/]      {escape(str(fleet.logs))}")
    if settings.jwt_jwks_file is not None:
        return  # tokens are made by whoever holds the private key
    for user, scopes in TOKENS.items():
        token = make_token(
            settings.jwt_keys[0],
            user,
            scopes=scopes,
            ttl_s=TOKEN_TTL_S,
            issuer=settings.jwt_issuer,
            audience=settings.jwt_audience,
        )
        console.print(f"[bold]Token[/]     [dim]{user}[/] {token}")


@contextlib.contextmanager
def _only_one(data_dir: Path) -> Iterator[None]:
    """Holds the folder's lock, which names its holder.

    Raises:
        ConfigurationError: another `up` holds it.
    """
    with (data_dir / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read(20).strip() or "?"
            raise ConfigurationError(
                f"`lanewise up` (process {holder}) already runs in {data_dir}: stop it, or give another --data-dir"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def _put_old_logs_aside(logs: Path) -> None:
    for log in logs.glob("*.log"):
        log.replace(log.with_suffix(".log.old"))


def _check_folder() -> None:
    """Refuses a working directory with a module named like one of ours: Python would import that one instead.

    Raises:
        ConfigurationError: naming the file.
    """
    ours = Path(__file__).parents[1]
    for name in PACKAGES:
        for module in (Path(f"{name}.py"), Path(name, "__init__.py")):
            if module.exists() and module.resolve() != (ours / name / "__init__.py").resolve():
                raise ConfigurationError(
                    f"{module.absolute()} hides Lanewise's own {name!r}: start from another folder"
                )
