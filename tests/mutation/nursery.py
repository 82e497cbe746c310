"""`python -m tests.mutation.nursery`: has libraries imported, and forks a process for each mutant, which tests it.

Orders and answers are lines of JSON. Nothing of ours is imported here: each child imports it anew, with the mutant.
The stores are the parent's. It needs Linux.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import Phase, settings

LIBRARIES = (
    "alembic.command", "celery.app.amqp", "click.testing", "cryptography.hazmat.primitives.asymmetric.rsa", "flask",
    "httpx", "hypothesis", "jsonschema", "jwt", "kombu.transport.redis", "prometheus_client", "psutil",
    "psycopg2.extras", "pydantic.main", "pydantic_settings", "redis", "simple_websocket",
    "sqlalchemy.dialects.postgresql.psycopg2", "sqlalchemy.orm", "structlog", "websockets.sync.client", "wsproto",
    "yaml",
)  # fmt: skip
PLUGINS = ("pytest_timeout", "xdist.plugin", "_hypothesis_pytestplugin")  # others take long, and rewrite our modules
MEMORY = 4 * 2**30  # bytes; a mutant may gather things without end


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, text: str) -> None:
        super().__init__(name, path)
        self._text = text

    def get_code(self, fullname: str) -> CodeType:
        return compile(self._text, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds one module: the mutant."""

    def __init__(self, file: str, text: str) -> None:
        self._name = file.removesuffix(".py").replace("/", ".")
        self._path = str(Path(file).resolve())
        self._text = text

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        loader = _Loader(fullname, self._path, self._text)
        return importlib.util.spec_from_file_location(fullname, self._path, loader=loader)


class _Stores:
    """Has the fixture `servers` give out the parent's stores."""

    def __init__(self, postgres: str, redis: dict[str, str]) -> None:
        self._postgres, self._redis = postgres, redis

    @pytest.hookimpl(trylast=True)  # after `tests/conftest.py`
    def pytest_configure(self) -> None:
        from tests.services import Servers  # noqa: PLC0415 - not before the fork

        usual = settings(deadline=None, derandomize=True, max_examples=30)
        settings.register_profile("mutation", usual, phases=[Phase.explicit, Phase.generate])
        settings.load_profile("mutation")  # nobody reads what a failure could be reduced to

        @contextmanager
        def start(cls: type[Servers]) -> Iterator[Any]:
            redis = SimpleNamespace(admin_url=self._redis["admin"], url=self._redis.__getitem__)
            yield cls(SimpleNamespace(admin_url=self._postgres), redis)  # type: ignore[arg-type]

        Servers.start = classmethod(start)  # type: ignore[method-assign, assignment]


def _test(order: dict[str, Any]) -> int:
    """Runs the tests with the mutant; 0 if they pass: it survives."""
    file, text = order["file"], order["text"]
    if file.endswith(".py"):
        sys.meta_path.insert(0, _Finder(file, text))
    else:
        read, place = Path.read_text, Path(file).resolve()
        Path.read_text = lambda self, *a, **k: text if self == place else read(self, *a, **k)  # type: ignore[method-assign]
    plugins = [part for name in PLUGINS for part in ("-p", name)]
    if all(test.startswith("tests/unit/") for test in order["tests"]):
        plugins.append("--noconftest")  # most of what it imports is for others
    options = ["-x", "-q", "-p", "no:cacheprovider", "--tb=line", "-W", "ignore::pytest.PytestAssertRewriteWarning"]
    return pytest.main([*plugins, *options, *order["tests"]], plugins=[_Stores(order["postgres"], order["redis"])])


def _try(order: dict[str, Any]) -> dict[str, Any]:
    """Forks, waits until it is over, at most as long as the order says; whatever it started ends with it."""
    began = time.monotonic()
    child = os.fork()
    if not child:
        outcome = 1
        try:
            os.setsid()
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for descriptor in (0, 1, 2):
                os.dup2(output, descriptor)
            outcome = int(_test(order))
        finally:
            sys.stdout.flush()
            os._exit(outcome)
    ended = os.pidfd_open(child)
    in_time = bool(select.select([ended], [], [], order["limit_s"])[0])
    os.close(ended)
    with suppress(ProcessLookupError):  # it may have left nothing
        os.killpg(child, signal.SIGKILL)
    _, wait_status = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(wait_status) if in_time else None
    return {"status": status, "took_s": time.monotonic() - began}


def main() -> None:
    """Answers orders until there are no more."""
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    for library in (*LIBRARIES, *PLUGINS):
        importlib.import_module(library)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_try(json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
