"""Leaks that are planted one at a time: each takes a wall down, and must be seen. docs/security.md has the table."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.fleet.fleet import AGENTS, QUICK, Fleet
from tests.fleet.scene import Scene

SABOTAGE = Path(__file__).parent / "sabotage"
USERS, RUNS_EACH = 2, 2


@dataclass(frozen=True)
class Script:
    """A break of the database, and its mending."""

    breaks: str
    mends: str


@dataclass(frozen=True)
class Planted:
    """A deliberate break.

    Args:
        layer: where it is.
        breaks: names of functions in `sabotage/sitecustomize.py`, or scripts.
        seen: the ways in which a canary must be seen by the wrong eyes; none: another wall holds.
        perhaps: ways in which it may be seen too, depending on who is faster.
        spoils: whether the zygote keeps something of it, so that it has to be ended.
    """

    layer: str
    breaks: tuple[str | Script, ...] = ()
    seen: frozenset[str] = frozenset()
    perhaps: frozenset[str] = frozenset()
    spoils: bool = False


def _ways(*names: str) -> frozenset[str]:
    return frozenset(names)


NO_ROW_SECURITY = Script(
    "ALTER TABLE lanewise.runs DISABLE ROW LEVEL SECURITY; ALTER TABLE lanewise.threads DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE lanewise.runs ENABLE ROW LEVEL SECURITY; ALTER TABLE lanewise.threads ENABLE ROW LEVEL SECURITY",
)
OPEN_POLICY = Script(
    "CREATE POLICY planted ON lanewise.documents FOR SELECT TO lanewise_run USING (true)",
    "DROP POLICY planted ON lanewise.documents",
)
EVENTS = _ways("websocket live", "websocket resumed", "websocket replay")
LOOKED = _ways("sandbox memory", "sandbox memory at start")
PLANTED = {
    "nothing is broken": Planted("none"),
    "queries forget their filter": Planted("queries", ("filter",)),  # row level security holds
    "tables have no row level security": Planted("tables", (NO_ROW_SECURITY,), _ways("database")),
    "neither filters nor row level security": Planted(
        "queries and tables", ("filter", NO_ROW_SECURITY), _ways("database", "rest", "websocket snapshot")
    ),
    "a policy lets every run in": Planted(
        "tables, for sandboxes", (OPEN_POLICY,), _ways("sandbox rows", "sandbox memory")
    ),
    "a pooled session states another user": Planted("sessions of the api", ("filter", "session"), _ways("rest")),
    "an answer is cached by its path": Planted("answers of the api", ("answer",), _ways("rest")),
    "events go to everybody's channel": Planted("channels in Redis", ("channel",), _ways("redis"), EVENTS),
    "a gateway tells everybody": Planted("gateway, live", ("hub",), _ways("websocket live"), EVENTS),
    "a replay is remembered by its cursor": Planted(
        "gateway, replays", ("replay",), _ways("websocket replay"), _ways("websocket resumed")
    ),
    "stored values share their keys": Planted(
        "keys in Redis", ("store",), _ways("redis", "sandbox store", "sandbox memory")
    ),
    "a message carries the input": Planted("broker", ("message",), _ways("redis")),
    "memory is found by the agent's name": Planted(
        "runner, state", ("state",), _ways("sandbox state", "sandbox memory")
    ),
    "files are saved with the run before": Planted("runner, artifacts", ("artifact",), _ways("database", "rest")),
    "a run ends with the error before": Planted(
        "runner, errors", ("error",), _ways("database", "redis", "rest"), EVENTS | {"websocket snapshot"}
    ),
    "a log line quotes an agent": Planted("logs", ("log",), _ways("log")),
    "sandboxes share memory": Planted("sandbox, memory", ("memory",), _ways("sandbox memory"), LOOKED),
    "sandboxes share their folder": Planted(
        "sandbox, files", ("folder",), _ways("sandbox folder", "sandbox memory"), LOOKED | {"sandbox folder at start"}
    ),
    "the zygote keeps what it passes on": Planted(
        "zygote, memory", ("zygote",), _ways("sandbox memory", "sandbox memory at start"), spoils=True
    ),
    "an input becomes an environment variable": Planted(
        "zygote, environment", ("environment",), _ways("sandbox environment"), LOOKED, spoils=True
    ),
    "descriptors are inherited": Planted("zygote, descriptors", ("descriptors",), _ways("sandbox links"), spoils=True),
    "one process runs everybody's agents": Planted(
        "an agent's process, with a dict of its module",
        ("process",),
        _ways("sandbox memory", "sandbox folder", "sandbox cache"),
        _ways("sandbox links", "sandbox memory at start", "sandbox folder at start"),
        spoils=True,
    ),
}


@contextmanager
def breakable(switches: Path) -> Iterator[Fleet]:
    """Runs a fleet whose walls can be taken down.

    Args:
        switches: the folder of the breaks that are in force.
    """
    env = {
        **QUICK, "PYTHONPATH": str(SABOTAGE), "SABOTAGE": str(switches), "LANEWISE_SANDBOX_ENV": "SABOTAGE",
        "LANEWISE_AGENTS": AGENTS, "LANEWISE_USER_CONCURRENT_RUNS": str(RUNS_EACH),
    }  # fmt: skip
    with Fleet.start("--slots", str(USERS * RUNS_EACH), "--no-flower", env=env) as running:
        yield running


def play(fleet: Fleet, switches: Path, folder: Path, planted: Planted) -> Scene:
    """Returns a scene that was played with something broken."""
    with ExitStack() as stack:
        for break_ in planted.breaks:
            stack.enter_context(_in_force(fleet, switches, break_))
        scene = Scene(fleet, users=USERS, runs_each=RUNS_EACH, patience_s=1, folder=folder)
        scene.play()
    if planted.spoils:
        fleet.kill("zygote")
        fleet.await_ready()
    return scene


def is_caught(planted: Planted, scene: Scene) -> bool:
    """Tells whether the leak was seen where it must be, and nothing else was."""
    seen = set(scene.canaries.leaked)
    return planted.seen <= seen <= planted.seen | planted.perhaps


@contextmanager
def _in_force(fleet: Fleet, switches: Path, break_: str | Script) -> Iterator[None]:
    """Breaks something, and mends it."""
    with ExitStack() as stack:
        if isinstance(break_, str):
            (switches / break_).touch()
            stack.callback((switches / break_).unlink)
        else:
            connection = stack.enter_context(fleet.superuser().connect())
            connection.exec_driver_sql(break_.breaks)
            stack.callback(connection.exec_driver_sql, break_.mends)
        yield
