"""A hostile agent tries to get out. Each attack is refused; with the walls in its way taken down it succeeds."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from lanewise.process import wait_until
from shared.outcomes import Completed, Failed
from tests.integration.worker.conftest import Begin
from tests.sandboxes import REPOSITORY, all_gone, gone, worker_environment
from worker import walls
from worker.zygote_client import ZygoteClient

SHARED_MEMORY = "/dev/shm/lanewise-escape-"  # noqa: S108 - just what is attacked
DOWN = Path(__file__).parent / "walls_down"
AGENTS = "tests.agents,tests.agents_hostile"
SECRET = "the-secret-of-the-worker"
HIDDEN = Path("project") / "config" / ".env"
MISSING = list(walls.missing())

LANDLOCK, FILTER, LIMITS, PRIVILEGES = (frozenset({name}) for name in ("landlock", "filter", "limits", "privileges"))
IDENTITY = frozenset({"account", "capabilities"})
# What stands between a sandbox and other processes, and files that are not its own.
OTHERS = (LANDLOCK, IDENTITY)
# Where our code is closed to other accounts, that of a sandbox reads whatever Landlock lets it.
FILES = OTHERS if walls.account.open_to_all([sys.prefix, sys.base_prefix]) else (LANDLOCK,)


@dataclass(frozen=True)
class Scene:
    """What there is to attack.

    Args:
        victim: a process that has a secret in its environment, as a worker has.
        address: of something in its memory.
        neighbour: the pid of another sandbox.
        neighbours_folder: where that one works.
        port: of somebody who listens.
        abstract: the name of a local socket without a file.
        folder: closed to others, with what a data folder has.
    """

    victim: int
    address: int
    zygote: int
    neighbour: int
    neighbours_folder: Path
    port: int
    abstract: str
    folder: Path


Arguments = Callable[[Scene], tuple[Any, ...]]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Args:
        name: of the function in `tests.agents_hostile`.
        walls: those in its way; each holds alone, and all have to go for it to succeed.
        arguments: for it.
        contained: for an attack that always gets something: whether that is little enough.
        also: what has to go too: it cannot stand without those walls, or holds with them only.
    """

    name: str
    walls: tuple[frozenset[str], ...]
    arguments: Arguments = lambda _: ()
    contained: Callable[[Any], bool] = lambda _: False
    also: frozenset[str] = frozenset()

    @property
    def down(self) -> frozenset[str]:
        """What has to go for it to succeed."""
        return self.also.union(*self.walls)


def limited(to: int) -> Callable[[Any], bool]:
    return lambda got: got <= to


ATTACKS = {
    "the keys in the worker's environment": Attack(
        "read_file", (IDENTITY,), lambda at: (f"/proc/{at.victim}/environ",), also=LANDLOCK
    ),
    "the worker's command line": Attack("read_file", (LANDLOCK,), lambda at: (f"/proc/{at.victim}/cmdline",)),
    "the worker's memory, by /proc": Attack("read_memory", OTHERS, lambda at: (at.victim,)),
    "the worker's memory, by a call": Attack("vm_read", (*OTHERS, FILTER), lambda at: (at.victim, at.address)),
    "the worker, by ptrace": Attack("trace", (*OTHERS, FILTER), lambda at: (at.victim,)),
    "the worker's descriptors": Attack("descriptors", OTHERS, lambda at: (at.victim,)),
    "a signal to the worker": Attack("send_signal", OTHERS, lambda at: (at.victim,)),
    "a signal to the zygote": Attack("send_signal", OTHERS, lambda at: (at.zygote,)),
    "a signal to a neighbour": Attack("send_signal", OTHERS, lambda at: (at.neighbour,)),
    "a neighbour's memory": Attack("read_memory", OTHERS, lambda at: (at.neighbour,)),
    "a neighbour's files": Attack("list_folder", FILES, lambda at: (str(at.neighbours_folder),), also=IDENTITY),
    "the data folder's secrets": Attack(
        "read_file", FILES, lambda at: (str(at.folder / "secrets.json"),), also=IDENTITY
    ),
    "what a project hides": Attack("read_file", (LANDLOCK,), lambda _: (str(REPOSITORY / ".ci" / "run"),)),
    "what a project hides in its folders": Attack(
        "read_file", (LANDLOCK,), lambda at: (str(at.folder.parent / HIDDEN),)
    ),
    "passwords of the system": Attack("read_file", FILES, lambda _: ("/etc/shadow",), also=IDENTITY),
    "writing outside of its folder": Attack("write_file", OTHERS, lambda at: (str(at.folder / "left"),)),
    "writing into the shared memory of the machine": Attack(
        "write_file", (LANDLOCK,), lambda at: (f"{SHARED_MEMORY}{at.victim}",)
    ),
    "a connection to a store": Attack("connect", (LANDLOCK,), lambda at: (at.port,)),
    "a connection within a send": Attack("fast_open", (FILTER,), lambda at: (at.port,)),
    "a socket of another family": Attack("other_sockets", (FILTER,)),
    "a datagram": Attack("datagram", (FILTER,), lambda at: (at.port,)),
    "listening": Attack("listen", (LANDLOCK, FILTER)),
    "listening without an address": Attack("listen_anywhere", (FILTER,)),
    "a local socket without a file": Attack("abstract", (LANDLOCK, FILTER), lambda at: (at.abstract,)),
    "a local socket with a file": Attack(
        "local_socket", (FILTER,), lambda at: (str(at.folder.parent / "socket"),)
    ),
    "a limit for the worker": Attack(
        "limit_other", (IDENTITY, FILTER), lambda at: (at.victim,)
    ),
    "memory that no limit counts": Attack("memory_files", (FILTER,)),
    "a namespace of its own": Attack("namespaces", (FILTER,)),
    "memory that outlives it": Attack("shared_memory", (FILTER,)),
    "a program that becomes root": Attack(
        "become_root", (PRIVILEGES,), lambda at: (str(at.folder.parent / "as-root"),), also=LANDLOCK | FILTER
    ),
    "more of the processor": Attack("hurry", (IDENTITY,)),
    "a fork bomb": Attack("forks", (LIMITS,)),
    "threads without end": Attack("threads", (LIMITS,)),
    "10 GiB of memory": Attack("allocate", (LIMITS,), lambda _: (10,)),
    "a file of 10 GiB": Attack("big_file", (LIMITS,)),
    "descriptors without end": Attack("open_files", (LIMITS,), contained=limited(walls.MAX_FILES)),
}  # fmt: skip

# Without accounts of their own, sandboxes share a limit of processes that is too high to be met here.
SHARED = [lack for lack in MISSING if "account of its own" in lack]
needs_accounts = pytest.mark.skipif(bool(SHARED), reason="; ".join(SHARED))
OF_ACCOUNTS = {"a fork bomb", "threads without end"}
REFUSED = [pytest.param(what, marks=needs_accounts) if what in OF_ACCOUNTS else what for what in ATTACKS]
pytestmark = pytest.mark.skipif(MISSING != SHARED, reason=f"this platform cannot: {'; '.join(MISSING)}")


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A folder that sandboxes may read, with one in it that is closed."""
    with tempfile.TemporaryDirectory(prefix="escapes-") as name:
        place = Path(name)
        place.chmod(0o755)
        data = place / "data"
        data.mkdir(mode=0o700)
        (data / "secrets.json").write_text(SECRET)
        (data / "secrets.json").chmod(0o600)
        (place / HIDDEN).parent.mkdir(parents=True)
        (place / HIDDEN).write_text(SECRET)
        program = shutil.copy("/usr/bin/id", place / "as-root")
        Path(program).chmod(0o4755)
        with closing(socket.socket(socket.AF_UNIX)) as local:
            local.bind(str(place / "socket"))
            (place / "socket").chmod(0o666)
            local.listen(100)
            yield place


@contextmanager
def zygote_for(place: Path, **further: str) -> Iterator[ZygoteClient]:
    """Runs a zygote that finds its agents again, should it end."""
    closed = str(place / "data")
    zygote = ZygoteClient(walls.Confinement(256, readable=(str(place),), closed=(closed,)), ("WALLS_DOWN",))
    path = [further.pop("PYTHONPATH", os.environ.get("PYTHONPATH", "")), str(place / HIDDEN.parts[0])]
    with worker_environment(AGENTS, PYTHONPATH=os.pathsep.join(filter(None, path)), **further):
        try:
            zygote.start()
            yield zygote
        finally:
            zygote.stop()


def walls_down(switches: Path) -> dict[str, str]:
    """Returns the variables with which a zygote looks in a folder which walls are down."""
    path = os.pathsep.join((str(DOWN), str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])))
    return {"WALLS_DOWN": str(switches), "PYTHONPATH": path}


@pytest.fixture(scope="module")
def real(place: Path) -> Iterator[ZygoteClient]:
    with zygote_for(place) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def switches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("walls_down")


@pytest.fixture(scope="module")
def breakable(place: Path, switches: Path) -> Iterator[ZygoteClient]:
    """A zygote whose sandboxes look which walls are down."""
    with zygote_for(place, **walls_down(switches)) as zygote:
        yield zygote


@pytest.fixture(scope="module")
def victim() -> Iterator[tuple[int, int]]:
    code = "import ctypes, sys; b = ctypes.create_string_buffer(16); print(ctypes.addressof(b), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={"KEY": SECRET}
    ) as process:
        assert process.stdout is not None
        yield process.pid, int(process.stdout.readline())
        process.kill()


@pytest.fixture
def listening() -> Iterator[tuple[int, str]]:
    with ExitStack() as stack:
        server = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=100)))
        local = stack.enter_context(closing(socket.socket(socket.AF_UNIX)))
        name = f"lanewise-escapes-{os.getpid()}"
        local.bind(f"\0{name}")
        local.listen(100)
        yield server.getsockname()[1], name


@pytest.fixture
def attack(
    begin: Begin, place: Path, victim: tuple[int, int], listening: tuple[int, str]
) -> Callable[..., tuple[bool, Any]]:
    def attack(zygote: ZygoteClient, what: Attack, agent: str = "attack") -> tuple[bool, Any]:
        """Returns whether it succeeded, and what came of it."""
        neighbour = begin("wait", zygote=zygote)
        neighbour.wait_for()
        folders = Path(tempfile.gettempdir()).glob(f"lanewise-*/{neighbour.pid}")
        folder = max(folders, key=lambda found: found.stat().st_ctime)  # others may be left of killed workers
        assert zygote.pid is not None
        scene = Scene(*victim, zygote.pid, neighbour.pid, folder, *listening, place / "data")
        given = {"attack": what.name, "arguments": what.arguments(scene)}
        outcome = begin(agent, given, zygote=zygote, time_limit_s=20).outcome()
        assert not neighbour.sandbox.exited.is_set()
        assert isinstance(outcome, Completed), outcome
        got = outcome.output
        return "got" in got and not what.contained(got["got"]), got

    return attack


@pytest.mark.parametrize("what", REFUSED)
def test_each_attack_is_refused(attack: Any, real: ZygoteClient, what: str) -> None:
    succeeded, got = attack(real, ATTACKS[what])
    assert not succeeded, got


@needs_accounts
@pytest.mark.parametrize("what", ATTACKS)
def test_without_its_walls_each_attack_succeeds(
    attack: Any, breakable: ZygoteClient, switches: Path, victim: tuple[int, int], what: str
) -> None:
    with taken_down(switches, ATTACKS[what].down):
        succeeded, got = attack(breakable, ATTACKS[what])
    Path(f"{SHARED_MEMORY}{victim[0]}").unlink(missing_ok=True)
    assert succeeded, got


@needs_accounts
@pytest.mark.parametrize(
    ("what", "alone"),
    [
        pytest.param(what, alone, id=f"{what}: {'+'.join(sorted(alone))}")
        for what, tried in ATTACKS.items()
        for alone in tried.walls
        if alone != tried.down
    ],
)
def test_each_of_its_walls_holds_alone(
    attack: Any, breakable: ZygoteClient, switches: Path, what: str, alone: frozenset[str]
) -> None:
    with taken_down(switches, ATTACKS[what].down - alone - ATTACKS[what].also):
        succeeded, got = attack(breakable, ATTACKS[what])
    assert not succeeded, got


@contextmanager
def taken_down(switches: Path, names: frozenset[str]) -> Iterator[None]:
    """Has sandboxes that begin meanwhile do without some walls."""
    for name in names:
        (switches / name).touch()
    try:
        yield
    finally:
        for name in names:
            (switches / name).unlink()


def _left_behind(begin: Begin, zygote: ZygoteClient) -> list[bool]:
    """Returns which processes that a run left behind are gone: in its group, of another session, an orphan."""
    outcome = begin("spawn", {}, zygote=zygote).outcome()
    assert isinstance(outcome, Completed)
    pids: list[int] = outcome.output
    try:
        assert all_gone(pids[0])  # when the run is over and its group was killed, orphans are looked for
        return [wait_until(partial(gone, pid), 2) for pid in pids]
    finally:
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_processes_that_leave_the_group_are_gone(begin: Begin, real: ZygoteClient) -> None:
    assert _left_behind(begin, real) == [True, True, True]


def test_processes_that_leave_the_group_stay_if_nobody_adopts_them(begin: Begin, place: Path, tmp_path: Path) -> None:
    (tmp_path / "subreaper").touch()
    with zygote_for(place, **walls_down(tmp_path)) as zygote:
        assert _left_behind(begin, zygote) == [True, False, False]


def test_an_agent_that_declares_it_has_the_network(attack: Any, real: ZygoteClient) -> None:
    for what in ("a connection to a store", "a datagram"):
        assert attack(real, ATTACKS[what], "connected") == (True, {"got": True})
    # What it may not, it may not with a network either.
    for what in ("a local socket without a file", "the keys in the worker's environment", "a namespace of its own"):
        succeeded, got = attack(real, ATTACKS[what], "connected")
        assert not succeeded, got


@pytest.mark.parametrize(
    ("what", "arguments", "words"),
    [
        ("connect", (1,), "this sandbox has no network, for neither its agent nor a tool declares `network = True`"),
        ("resolve", ("lanewise.example",), "this sandbox has no network"),
        ("big_file", (), "the sandbox may have files of 1,073,741,824 bytes at most"),
        ("too_many_files", (), "the sandbox may have 1,024 files open at once"),
        pytest.param("threads", (), "the sandbox has as many processes and threads as it may", marks=needs_accounts),
        ("allocate", (10,), "the run reached the memory limit of its sandbox"),
    ],
)
def test_the_error_says_which_wall_it_was(
    begin: Begin, real: ZygoteClient, what: str, arguments: tuple[Any, ...], words: str
) -> None:
    outcome = begin("confess", {"attack": what, "arguments": arguments}, zygote=real).outcome()
    assert isinstance(outcome, Failed)
    assert words in outcome.message


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_memory_is_closed_to_the_same_account_once_it_is_hidden() -> None:
    """Without accounts of their own, sandboxes are of the worker's: so its memory is closed even to that."""
    code = (
        "import os, sys; from shared import linux; os.setgid(65534); os.setuid(65534); "
        "linux.hide_memory(hidden=sys.argv[1] == 'hidden'); print('ready', flush=True); input()"
    )
    read = "import os, sys; os.setgid(65534); os.setuid(65534); open(f'/proc/{sys.argv[1]}/environ').read()"
    for state, refused in (("hidden", True), ("open", False)):
        with subprocess.Popen(
            [sys.executable, "-c", code, state], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=REPOSITORY
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            done = subprocess.run([sys.executable, "-c", read, str(process.pid)], capture_output=True, check=False)
            process.kill()
        assert ("PermissionError" in done.stderr.decode()) is refused, done.stderr
        assert (done.returncode != 0) is refused


def test_what_a_run_leaves_is_removed_however_deep_and_nobody_waits_for_it(begin: Begin, real: ZygoteClient) -> None:
    neighbour = begin("wait", zygote=real)
    neighbour.wait_for()
    attempt = begin("attack", {"attack": "deep_folder"}, zygote=real)
    assert attempt.outcome() == Completed({"got": True})
    assert attempt.sandbox.exited.is_set()
    (folder,) = {found.parent for found in Path(tempfile.gettempdir()).glob(f"lanewise-*/{neighbour.pid}")}
    assert wait_until(lambda: [entry.name for entry in folder.iterdir()] == [str(neighbour.pid)], 30)
    assert (real.restarts, neighbour.sandbox.exited.is_set()) == (0, False)
