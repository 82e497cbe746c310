"""A hostile agent tries to get out. Each attack is refused; with the walls in its way taken down it succeeds."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lanewise.process import wait_until
from shared.outcomes import Completed, Failed
from tests.integration.worker.conftest import Begin
from tests.sandboxes import REPOSITORY, a_zygote
from worker import walls
from worker.zygote_client import ZygoteClient

DOWN = Path(__file__).parent / "walls_down"
AGENTS = "tests.agents,tests.agents_hostile"
SECRET = "the-secret-of-the-worker"  # noqa: S105 - nobody's
MISSING = list(walls.missing())

# What stands between a sandbox and other processes, and files that are not its own.
OTHERS = frozenset({"landlock", "account", "capabilities"})


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
        down: the walls that have to go for it to succeed.
        arguments: for it.
        contained: for an attack that always gets something: whether that is little enough.
    """

    name: str
    down: frozenset[str]
    arguments: Arguments = lambda _: ()
    contained: Callable[[Any], bool] = lambda _: False


def limited(to: int) -> Callable[[Any], bool]:
    return lambda got: got <= to


ATTACKS = {
    "the keys in the worker's environment": Attack("read_file", OTHERS, lambda at: (f"/proc/{at.victim}/environ",)),
    "the worker's memory, by /proc": Attack("read_memory", OTHERS, lambda at: (at.victim,)),
    "the worker's memory, by a call": Attack("vm_read", OTHERS | {"filter"}, lambda at: (at.victim, at.address)),
    "the worker, by ptrace": Attack("trace", OTHERS | {"filter"}, lambda at: (at.victim,)),
    "the worker's descriptors": Attack("descriptors", OTHERS, lambda at: (at.victim,)),
    "a signal to the worker": Attack("send_signal", OTHERS, lambda at: (at.victim,)),
    "a signal to the zygote": Attack("send_signal", OTHERS, lambda at: (at.zygote,)),
    "a signal to a neighbour": Attack("send_signal", OTHERS, lambda at: (at.neighbour,)),
    "a neighbour's memory": Attack("read_memory", OTHERS, lambda at: (at.neighbour,)),
    "a neighbour's files": Attack("list_folder", OTHERS, lambda at: (str(at.neighbours_folder),)),
    "the data folder's secrets": Attack("read_file", OTHERS, lambda at: (str(at.folder / "secrets.json"),)),
    "what a project hides": Attack("read_file", frozenset({"landlock"}), lambda _: (str(REPOSITORY / ".ci" / "run"),)),
    "passwords of the system": Attack("read_file", OTHERS, lambda _: ("/etc/shadow",)),
    "writing outside of its folder": Attack("write_file", OTHERS, lambda at: (str(at.folder / "left"),)),
    "writing into the shared memory of the machine": Attack(
        "write_file", frozenset({"landlock"}), lambda at: (f"/dev/shm/lanewise-escape-{at.victim}",)
    ),
    "a connection to a store": Attack("connect", frozenset({"landlock"}), lambda at: (at.port,)),
    "a connection within a send": Attack("fast_open", frozenset({"landlock", "filter"}), lambda at: (at.port,)),
    "a datagram": Attack("datagram", frozenset({"filter"}), lambda at: (at.port,)),
    "listening": Attack("listen", frozenset({"landlock"})),
    "a local socket without a file": Attack("abstract", frozenset({"landlock"}), lambda at: (at.abstract,)),
    "a namespace of its own": Attack("namespaces", frozenset({"filter"})),
    "memory that outlives it": Attack("shared_memory", frozenset({"filter"})),
    "a program that becomes root": Attack(
        "become_root", frozenset({"privileges", "landlock", "filter"}), lambda at: (str(at.folder.parent / "as-root"),)
    ),
    "more of the processor": Attack("hurry", frozenset({"account", "capabilities"})),
    "a fork bomb": Attack("forks", frozenset({"limits"})),
    "threads without end": Attack("threads", frozenset({"limits"})),
    "10 GiB of memory": Attack("allocate", frozenset({"limits"}), lambda _: (10,)),
    "a file of 10 GiB": Attack("big_file", frozenset({"limits"})),
    "descriptors without end": Attack("open_files", frozenset({"limits"}), contained=limited(walls.MAX_FILES)),
}  # fmt: skip

pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"this platform cannot: {'; '.join(MISSING)}")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that sandboxes may read, with one in it that is closed."""
    place = tmp_path_factory.mktemp("place")
    for folder in (*list(place.parents)[:-1], place):
        if folder.stat().st_uid == os.geteuid() and str(folder).startswith("/tmp/"):  # noqa: S108 - pytest's
            folder.chmod(0o755)
    data = place / "data"
    data.mkdir(mode=0o700)
    (data / "secrets.json").write_text(SECRET)
    (data / "secrets.json").chmod(0o600)
    program = shutil.copy("/usr/bin/id", place / "as-root")
    Path(program).chmod(0o4755)
    return place


def zygote_for(place: Path, **further: str) -> Any:
    return a_zygote(AGENTS, passed=("WALLS_DOWN",), readable=(str(place),), closed=(str(place / "data"),), **further)


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
    path = os.pathsep.join((str(DOWN), str(REPOSITORY)))
    with zygote_for(place, WALLS_DOWN=str(switches), PYTHONPATH=path) as zygote:
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
        folder = Path(os.readlink(f"/proc/{neighbour.pid}/cwd"))
        assert zygote.pid is not None
        scene = Scene(*victim, zygote.pid, neighbour.pid, folder, *listening, place / "data")
        given = {"attack": what.name, "arguments": what.arguments(scene)}
        outcome = begin(agent, given, zygote=zygote, time_limit_s=20).outcome()
        assert not neighbour.sandbox.exited.is_set()
        assert isinstance(outcome, Completed), outcome
        got = outcome.output
        return "got" in got and not what.contained(got["got"]), got

    return attack


@pytest.mark.parametrize("what", ATTACKS)
def test_each_attack_is_refused(attack: Any, real: ZygoteClient, what: str) -> None:
    succeeded, got = attack(real, ATTACKS[what])
    assert not succeeded, got


@pytest.mark.parametrize("what", ATTACKS)
def test_without_its_walls_each_attack_succeeds(
    attack: Any, breakable: ZygoteClient, switches: Path, victim: tuple[int, int], what: str
) -> None:
    for wall in ATTACKS[what].down:
        (switches / wall).touch()
    try:
        succeeded, got = attack(breakable, ATTACKS[what])
    finally:
        for wall in ATTACKS[what].down:
            (switches / wall).unlink()
        Path(f"/dev/shm/lanewise-escape-{victim[0]}").unlink(missing_ok=True)
    assert succeeded, got
