"""`python -m tests.mutation [FILE…]`: makes every small mistake once, and wants the tests of the file to notice it."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from lanewise.redis_acl import USERS
from shared.redis import connect
from tests.mutation.mutants import Mutant, mutants_of, name_of
from tests.mutation.targets import TARGETS
from tests.services import TEMPLATE, Servers, superuser_engine

SURVIVORS = Path(__file__).with_name("survivors.txt")
ENOUGH = 0.8
NO_TESTS = (4, 5)  # pytest was called wrongly, or found nothing


@dataclass(frozen=True)
class Trial:
    """What became of a mutant: `killed`, `timeout` or `survived`."""

    mutant: Mutant
    end: str


class Bench:
    """Stores of its own, and a process that forks one for each mutant."""

    def __init__(self, servers: Servers, nursery: subprocess.Popen[str], output: Path) -> None:
        self._servers = servers
        self._nursery = nursery
        self._output = output
        self._usual_s: dict[str, float] = {}

    @classmethod
    @contextmanager
    def open(cls) -> Iterator[Bench]:
        """Starts both, until the end of the block."""
        with ExitStack() as stack:
            servers = stack.enter_context(Servers.start())
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lanewise-mutation-"))
            nursery = subprocess.Popen(
                [sys.executable, "-m", "tests.mutation.nursery"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                env={**os.environ, "CI": "1", "TMPDIR": folder},  # properties without chance
            )  # fmt: skip
            stack.enter_context(nursery)  # closes its input, at which it ends
            yield cls(servers, nursery, Path(folder) / "output")

    def learn(self, file: str) -> None:
        """Has the tests of a file pass without a mutant, and sees how long that takes; then they must miss the file.

        Raises:
            AssertionError: they fail, or don't.
        """
        status, took_s = self._order(file, Path(file).read_text(), 300)
        assert status == 0, f"the tests of {file} fail without a mutant:\n{self._output.read_text()}"
        if not file.endswith(".sql"):
            status, _ = self._order(file, "", 300)
            assert status, f"the tests of {file} do not use the mutant"
        self._usual_s[file] = took_s

    def try_one(self, mutant: Mutant) -> Trial | None:
        """Returns what became of a mutant; None for SQL that Postgres does not take."""
        if mutant.file not in self._usual_s:
            self.learn(mutant.file)
        limit_s = 10 + 3 * self._usual_s[mutant.file]
        if not mutant.file.endswith(".sql"):
            return self._trial(mutant, limit_s)
        try:
            self._define(mutant.text)
            return self._trial(mutant, limit_s)
        except DBAPIError:
            return None
        finally:
            self._define(Path(mutant.file).read_text())

    def _trial(self, mutant: Mutant, limit_s: float) -> Trial:
        status, _ = self._order(mutant.file, mutant.text, limit_s)
        assert status not in NO_TESTS, self._output.read_text()
        return Trial(mutant, "timeout" if status is None else "killed" if status else "survived")

    def _order(self, file: str, text: str, limit_s: float) -> tuple[int | None, float]:
        redis = self._servers.redis
        order = {
            "file": file, "text": text, "tests": TARGETS[file], "limit_s": limit_s, "output": str(self._output),
            "postgres": self._servers.postgres.admin_url,
            "redis": {"admin": redis.admin_url, **{user: redis.url(user) for user in USERS}},
        }  # fmt: skip
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps(order) + "\n")
        self._nursery.stdin.flush()
        answer = json.loads(self._nursery.stdout.readline())
        if answer["status"] not in {0, 1}:  # it was killed, and has left what it made
            self._clean()
        return answer["status"], answer["took_s"]

    def _clean(self) -> None:
        with superuser_engine(self._servers.postgres.admin_url).connect() as connection:
            names = sa.text("SELECT datname FROM pg_database WHERE datname LIKE 'test\\_%'")
            for name in connection.scalars(names).all():
                connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        with closing(connect(self._servers.redis.admin_url)) as client:
            client.flushall()

    def _define(self, function: str) -> None:
        """Puts a function in the place of the one of its name, in the database that those of the tests are made of."""
        replacing = function.replace("CREATE FUNCTION", "CREATE OR REPLACE FUNCTION")
        self._servers.execute(f"SET search_path = lanewise; {replacing}", database=TEMPLATE)


def run(files: list[str], processes: int) -> bool:
    """Tries all mutants of the files; prints a report; True if enough were killed and all others are explained."""
    began = time.monotonic()
    mutants = [mutant for file in files for mutant in mutants_of(file)]
    trials: list[Trial] = []
    with ExitStack() as stack:
        benches: SimpleQueue[Bench] = SimpleQueue()
        for _ in range(processes):
            benches.put(stack.enter_context(Bench.open()))

        def attempt(mutant: Mutant) -> Trial | None:
            bench = benches.get()
            try:
                return bench.try_one(mutant)
            finally:
                benches.put(bench)

        pool = ThreadPoolExecutor(processes)
        stack.callback(pool.shutdown, cancel_futures=True)
        for n, trial in enumerate(pool.map(attempt, mutants), 1):
            if trial is not None:
                trials.append(trial)
                if trial.end == "survived":
                    say(f"{trial.mutant.file}:{trial.mutant.line}\n    {trial.mutant.name}")
            if n % 100 == 0:
                say(f"… {n} of {len(mutants)} after {time.monotonic() - began:.0f} s")
    return report(files, trials, time.monotonic() - began, processes)


def report(files: list[str], trials: list[Trial], took_s: float, processes: int) -> bool:
    """Prints what became of the mutants of each file, and of which survivors nobody has said why."""
    known = explained()
    say(f"\n{'file':46} {'mutants':>7} {'killed':>7} {'time-out':>8} {'survived':>8}   share")
    for file in [*files, "all"]:
        ends = Counter(trial.end for trial in trials if file in {trial.mutant.file, "all"})
        caught, total = ends["killed"] + ends["timeout"], ends.total()
        share = caught / total if total else 1.0
        say(f"{file:46} {total:7} {ends['killed']:7} {ends['timeout']:8} {ends['survived']:8}   {share:.1%}")
    survivors = [trial.mutant for trial in trials if trial.end == "survived"]
    unexplained = [mutant for mutant in survivors if (mutant.file, mutant.name) not in known]
    alive = {(mutant.file, mutant.name) for mutant in survivors}
    say(f"\n{len(survivors)} survivors, {len(unexplained)} of them unexplained; {took_s:.0f} s, processes: {processes}")
    for mutant in unexplained:
        say(f"\nunexplained, in line {mutant.line}:\n{mutant.file}: \n- {mutant.was}\n+ {mutant.now}")
    for file, name in sorted(known - alive):
        if file in files:
            say(f"killed by now, to be taken out of {SURVIVORS.name}: {file}: {name}")
    return not unexplained and share >= ENOUGH


def explained() -> set[tuple[str, str]]:
    """Returns file and name of the survivors that are known, each with a reason."""
    found = set()
    for paragraph in SURVIVORS.read_text().partition("\n\n")[2].strip().split("\n\n"):
        head, *changes = paragraph.splitlines()
        file, _, why = head.partition(": ")
        assert why, f"{SURVIVORS.name} does not say why: {head}"
        for was, now in zip(changes[::2], changes[1::2], strict=True):
            assert (was[:2], now[:1]) == ("- ", "+"), f"{SURVIVORS.name}: {was}"
            found.add((file, name_of(was[2:], now[2:])))
    return found


def say(text: str) -> None:
    """Prints a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Runs what the command line asks for; 1 if anything is wrong."""
    for name in [name for name in os.environ if name.startswith("LANEWISE_")]:
        del os.environ[name]
    parser = argparse.ArgumentParser(prog="python -m tests.mutation")
    parser.add_argument("files", nargs="*", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--list", action="store_true", help="only say which mutants there are")
    given = parser.parse_args()
    files = given.files or list(TARGETS)
    if given.list:
        for file in files:
            for mutant in mutants_of(file):
                say(f"{file}:{mutant.line}\n    {mutant.name}")
        return 0
    return 0 if run(files, given.processes) else 1


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        sys.exit(main())
