"""Exceptions in words for users: the kind, the message, and which limit of the sandbox it comes of."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from shared.errors import LanewiseError
from worker import walls

MAX_MESSAGE = 2000
MAX_KIND = 64
MAX_CAUSES = 8
_NO_NETWORK = "this sandbox has no network, for neither its agent nor a tool declares `network = True`"
_TASKS = "the sandbox has as many processes and threads as it may"
_LIMITS = {
    errno.ENOMEM: "the run reached the memory limit of its sandbox",
    errno.EMFILE: f"the sandbox may have {walls.MAX_FILES:,} files open at once",
    errno.EFBIG: f"the sandbox may have files of {walls.MAX_FILE_BYTES:,} bytes at most",
}


def describe_error(error: BaseException) -> dict[str, str]:
    """Returns type and message of an exception as users may see them: no traceback, at most 2,000 characters."""
    if isinstance(error, ValidationError):
        return {"type": "invalid", "message": "; ".join(map(_mistake, error.errors()[:10]))[:MAX_MESSAGE]}
    kind = error.code if isinstance(error, LanewiseError) else type(error).__name__[:MAX_KIND]
    if isinstance(error, MemoryError):
        return {"type": kind, "message": f"{_LIMITS[errno.ENOMEM]} {str(error)[:500]}".rstrip()}
    message = str(error) or type(error).__name__
    limit = next(filter(None, map(_limit, _causes(error))), None)
    if limit is None:
        return {"type": kind, "message": message[:MAX_MESSAGE]}
    return {"type": kind, "message": f"{message[: MAX_MESSAGE - len(limit) - 2]}; {limit}"}


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    for _ in range(MAX_CAUSES):
        if link is not None:
            yield link
            link = link.__cause__ or (None if link.__suppress_context__ else link.__context__)


def _limit(error: BaseException) -> str | None:
    """Returns which limit of the sandbox an error comes of, as far as that can be told; None in a process without."""
    if not walls.raised:
        return None
    if "network" in walls.raised and isinstance(error, OSError):
        refused = error.errno == errno.EACCES and error.filename is None
        if refused or isinstance(error, socket.gaierror):
            return _NO_NETWORK
    if isinstance(error, RuntimeError) and "start new thread" in str(error):
        return _TASKS
    return _LIMITS.get(error.errno or 0) if isinstance(error, OSError) else None


def _mistake(found: Mapping[str, Any]) -> str:
    """Returns one mistake, after the field that it is in; one of the whole has none."""
    message = found["msg"].removeprefix("Value error, ")
    return f"{'.'.join(map(str, found['loc']))}: {message}" if found["loc"] else message
