"""What can be told without a store: this installation and its settings."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata

from packaging.requirements import Requirement

from lanewise.doctor.findings import Finding, failed, ok, warning
from shared.errors import ConfigurationError
from shared.settings import Settings
from shared.tokens import TokenVerifier
from worker.walls import missing

OLDEST_PYTHON = (3, 11)
SHOWN = ("celery", "redis", "SQLAlchemy", "psycopg2-binary", "flask", "gunicorn", "gevent")
FEWEST_CHARACTERS = 8  # that differ: 32 random hexadecimal digits practically never have fewer


def python() -> Iterator[Finding]:
    """Checks the interpreter."""
    version = platform.python_version()
    if sys.version_info < OLDEST_PYTHON:
        yield failed("python", version, "use Python 3.11 or newer")
    else:
        yield ok("python", f"{version} on {platform.system()} {platform.machine()}")


def libraries() -> Iterator[Finding]:
    """Checks that what this version of Lanewise asks for is installed."""
    wrong = []
    for text in metadata.requires("lanewise") or ():
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        present = _version(requirement.name)
        if present is None or not requirement.specifier.contains(present, prereleases=True):
            wrong.append(f"{requirement.name}{requirement.specifier} (is {present or 'missing'})")
    if wrong:
        yield failed("libraries", ", ".join(wrong), "install Lanewise anew, with its constraints.txt")
    else:
        yield ok("libraries", ", ".join(f"{name} {_version(name)}" for name in SHOWN))


def settings(given: Settings) -> Iterator[Finding]:
    """Checks what a valid settings object may still have wrong."""
    if any(len(set(secret)) < FEWEST_CHARACTERS for secret in (*given.secrets, *given.jwt_keys)):
        yield warning(
            "settings", "a secret has few different characters: it may be guessed", "make one: openssl rand -hex 32"
        )
    if given.run_database_url is None:
        yield warning(
            "settings", "agents have no database session", "set LANEWISE_RUN_DATABASE_URL, then `lanewise migrate`"
        )
    try:
        TokenVerifier(given)
    except ConfigurationError as error:
        yield failed("settings", error.message, "correct LANEWISE_JWT_JWKS_FILE")
    keys = f"{len(given.secrets)} secret keys" if len(given.secrets) > 1 else "one secret key"
    yield ok("settings", f"deployment {given.deployment}, lease {given.lease_s:g} s, sweep {given.sweep_s:g} s, {keys}")


def walls() -> Iterator[Finding]:
    """Tells what this platform cannot keep agents from, with workers under this account."""
    lacks = list(missing())
    for lack in lacks:
        yield warning("sandboxes", lack, "docs/security.md says what that means")
    if not lacks:
        yield ok("sandboxes", "Landlock, a filter of system calls, and an account for each")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
