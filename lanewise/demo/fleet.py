"""The demo's own fleet: `lanewise up` in a child process, in a folder that vanishes with it."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lanewise.process import Process, ProcessSpec, wait_until
from lanewise.secrets import load_secrets
from shared.errors import LanewiseError
from shared.settings import PREFIX, jwt_keys
from shared.tokens import make_token

READY_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 45.0
LOG_LINES = 25
DRAIN_S = "2"  # whoever interrupts the demo does not want its runs to end well


class DemoError(LanewiseError):
    """Something was not as it has to be."""

    code = "demo_failed"


@dataclass(frozen=True)
class Fleet:
    """A fleet that takes runs.

    Attributes:
        url: of its api.
        data_dir: its secrets and logs.
        started_s: how long it took to be ready, seconds.
    """

    url: str
    data_dir: Path
    started_s: float

    def token(self, user: str) -> str:
        """Returns a bearer token for a user."""
        return make_token(jwt_keys((load_secrets(self.data_dir).secret_key,))[0], user)


@contextmanager
def fleet() -> Iterator[Fleet]:
    """Starts a fleet on free ports; stops it and removes its folder at the end.

    Raises:
        DemoError: it does not start, or something fails while it runs; with the last lines of its logs.
    """
    data_dir = Path(tempfile.mkdtemp(prefix="lanewise-demo-"))
    try:
        process = Process(_spec(data_dir))
        try:
            yield _wait(process, data_dir)
        except LanewiseError as error:
            raise DemoError(f"{error.message}\n{_tail(process, data_dir)}") from error
        finally:
            process.stop()
        if process.exit_code != 0:
            raise DemoError(f"the fleet {process.ending} instead of stopping in order\n{process.last_lines(LOG_LINES)}")
    finally:
        shutil.rmtree(data_dir, ignore_errors=True)


def _spec(data_dir: Path) -> ProcessSpec:
    env = {name: value for name, value in os.environ.items() if not name.startswith(PREFIX)}
    return ProcessSpec(
        name="lanewise up",
        argv=(sys.executable, "-P", "-m", "lanewise.cli", "up", "--data-dir", str(data_dir), "--no-flower"),
        env={**env, "LANEWISE_AGENTS": "lanewise.demo.agents", "LANEWISE_DRAIN_S": DRAIN_S},
        log=data_dir / "up.log",
        stop_timeout_s=STOP_TIMEOUT_S,
    )


def _wait(process: Process, data_dir: Path) -> Fleet:
    log = data_dir / "up.log"
    ready: list[str] = []

    def is_ready() -> bool:
        ready[:] = [line for line in log.read_text(errors="replace").splitlines() if line.startswith("ready http")]
        return bool(ready) or process.exit_code is not None

    wait_until(is_ready, READY_TIMEOUT_S)
    if not ready:
        late = f"was not ready after {READY_TIMEOUT_S:g} s"
        raise DemoError(f"the fleet {late if process.exit_code is None else process.ending + ' before it was ready'}")
    return Fleet(ready[0].removeprefix("ready ").strip(), data_dir, time.monotonic() - process.started_at)


def _tail(process: Process, data_dir: Path) -> str:
    parts = [f"lanewise up:\n{process.last_lines(LOG_LINES)}"]
    for log in sorted((data_dir / "log").glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()[-5:]
        parts.append(f"{log.name}:\n" + "\n".join(f"  {line[:300]}" for line in lines))
    return "\n".join(parts)
