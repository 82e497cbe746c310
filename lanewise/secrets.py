"""The secrets of one data folder: made once, kept in `DIR/secrets.json`, readable by its owner only."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from shared.errors import ConfigurationError

FILE = "secrets.json"


@dataclass(frozen=True)
class Secrets:
    """What `lanewise up` makes for itself; every value is URL-safe, and none shows in the repr."""

    secret_key: str = field(repr=False)
    postgres_password: str = field(repr=False)
    service_password: str = field(repr=False)
    run_password: str = field(repr=False)
    redis_password: str = field(repr=False)
    redis_api_password: str = field(repr=False)
    redis_worker_password: str = field(repr=False)
    redis_broker_password: str = field(repr=False)
    flower_password: str = field(repr=False)


def make_data_dir(data_dir: Path) -> None:
    """Makes the folder, closed to others and ignored by git; one that exists stays as it is."""
    try:
        data_dir.mkdir(mode=0o700, parents=True)
    except FileExistsError:
        if not data_dir.is_dir():
            raise ConfigurationError(f"{data_dir} is not a folder") from None
    except OSError as error:
        raise ConfigurationError(f"the data folder cannot be made: {error}") from error
    else:
        (data_dir / ".gitignore").write_text("*\n")


def ensure_secrets(data_dir: Path) -> Secrets:
    """Returns the secrets of the folder; what is missing is made and stored first."""
    make_data_dir(data_dir)
    stored = read_private(data_dir / FILE)
    found = Secrets(**{item.name: stored.get(item.name) or secrets.token_urlsafe(32) for item in fields(Secrets)})
    if asdict(found) != stored:
        write_private(data_dir / FILE, asdict(found))
    return found


def load_secrets(data_dir: Path) -> Secrets:
    """Returns the secrets of a folder in which `lanewise up` has been started before.

    Raises:
        ConfigurationError: there are none, or they cannot be read.
    """
    stored = read_private(data_dir / FILE)
    try:
        return Secrets(**{item.name: stored[item.name] for item in fields(Secrets)})
    except KeyError:
        raise ConfigurationError(f"no secrets in {data_dir}: has `lanewise up` been started with it?") from None


def read_private(path: Path) -> dict[str, str]:
    """Returns what `write_private` wrote, nothing if there is no such file.

    Raises:
        ConfigurationError: it cannot be read.
    """
    try:
        stored = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} cannot be read: {type(error).__name__}") from None
    return {str(name): str(value) for name, value in stored.items()} if isinstance(stored, dict) else {}


def write_private(path: Path, values: dict[str, str]) -> None:
    """Replaces a file that only its owner may read, in one step: others see all of the old or all of the new."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(values, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
