"""The settings of a running `lanewise up`, for commands that look at its fleet: `DIR/running.json`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from lanewise.secrets import read_private, write_private
from shared.errors import ConfigurationError
from shared.settings import PREFIX

FILE = "running.json"


@contextmanager
def telling_settings(data_dir: Path, env: Mapping[str, str]) -> Iterator[None]:
    """Keeps the fleet's settings in the folder until the end of the block.

    Args:
        env: the environment of the fleet's processes.
    """
    file = data_dir / FILE
    write_private(file, {name: value for name, value in env.items() if name.startswith(PREFIX)})
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def take_settings(data_dir: Path) -> None:
    """Makes the settings in this process's environment those of the fleet that runs in the folder.

    Raises:
        ConfigurationError: none runs there.
    """
    settings = read_private(data_dir / FILE)
    if not settings:
        raise ConfigurationError(
            f"no `lanewise up` runs in {data_dir}: give its --data-dir, or the settings of a fleet in the environment"
        )
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        del os.environ[name]
    os.environ.update(settings)
