"""The words of the stream: close codes, frames that we send, and the one that a client begins with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Self

from shared.errors import LanewiseError

VERSION = 1
HELLO_TIMEOUT_S = 5.0
PING_S = 25
MAX_MESSAGE_BYTES = 2 * 1024 * 1024  # as a JSON body over REST
MAX_REF_LENGTH = 128
MAX_SOCKETS_PER_USER = 100
FRAMES_PER_WRITE = 16
BYTES_PER_WRITE = 256 * 1024  # and a frame


class CloseCode(IntEnum):
    """Why we close. After 4400, 4403, 4409 and 1009 a client must not come back by itself."""

    NORMAL = 1000
    PROTOCOL_ERROR = 1002
    NOT_TEXT = 1007
    TOO_BIG = 1009
    DRAINING = 1012
    OVERLOADED = 1013
    BAD_MESSAGE = 4400
    UNAUTHORIZED = 4401
    FORBIDDEN = 4403
    TOO_SLOW = 4408
    REPLACED = 4409
    GAP = 4410
    NO_HELLO = 4428
    TOO_MANY_MESSAGES = 4429


class StreamClosedError(Exception):
    """Ends a stream with a close code.

    Args:
        code: what the client is told.
        reason: for people, at most 123 bytes.
    """

    def __init__(self, code: CloseCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Hello:
    """The first frame of a client.

    Args:
        ticket: if no token came with the upgrade.
        after: the last `seq` that the client has; None: it wants a snapshot instead of a replay.
    """

    ticket: str | None
    after: int | None

    @classmethod
    def parse(cls, frame: dict[str, Any]) -> Self:
        """Returns the hello.

        Raises:
            StreamClosedError: it is not one.
        """
        ticket, after = frame.get("ticket"), frame.get("after")
        if frame.get("t") != "hello" or frame.get("v") != VERSION:
            raise bad_message(f"the first frame must be a hello of version {VERSION}")
        if ticket is not None and not isinstance(ticket, str):
            raise bad_message("ticket must be a string")
        if after is not None and (type(after) is not int or after < 0):
            raise bad_message("after must be null or a whole number from 0")
        return cls(ticket, after)


def bad_message(reason: str) -> StreamClosedError:
    """Returns the end that a client brings about which does not keep to the protocol."""
    return StreamClosedError(CloseCode.BAD_MESSAGE, reason)


def parse_frame(text: str) -> dict[str, Any]:
    """Returns the object in a text frame.

    Raises:
        StreamClosedError: it is not a JSON object.
    """
    try:
        value = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):
        raise bad_message("a frame must be JSON") from None
    if not isinstance(value, dict):
        raise bad_message("a frame must be a JSON object")
    return value


def parse_ref(frame: dict[str, Any]) -> str | None:
    """Returns what the client calls its request.

    Raises:
        StreamClosedError: it is not a short string.
    """
    ref = frame.get("ref")
    if ref is not None and (not isinstance(ref, str) or len(ref) > MAX_REF_LENGTH):
        raise bad_message(f"ref must be a string of at most {MAX_REF_LENGTH} characters")
    return ref


def encode(value: dict[str, Any]) -> bytes:
    """Returns the WebSocket text frame of a JSON object.

    Without compression a server's frame carries no state of its connection: the same bytes go to every socket.
    """
    body = json.dumps(value, separators=(",", ":")).encode()
    size = len(body)
    if size < 126:  # noqa: PLR2004 - RFC 6455, 5.2: the length, or which length follows
        head = bytes((0x81, size))
    elif size < 1 << 16:
        head = bytes((0x81, 126)) + size.to_bytes(2)
    else:
        head = bytes((0x81, 127)) + size.to_bytes(8)
    return head + body


def error_frame(ref: str | None, problem: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer to a request that failed, see `LanewiseError.problem`."""
    return {"t": "error", "ref": ref, "problem": problem}


def close_for(error: LanewiseError) -> StreamClosedError:
    """Returns how a stream ends that cannot begin because of the error."""
    code = {401: CloseCode.UNAUTHORIZED, 403: CloseCode.FORBIDDEN}.get(error.status, CloseCode.OVERLOADED)
    return StreamClosedError(code, error.message)


def _refuse(name: str) -> None:
    raise ValueError(name)


def portions(frames: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """Puts frames together so that each write is of a bounded size; yields how many, and their bytes."""
    portion: list[bytes] = []
    size = 0
    for frame in frames:
        portion.append(frame)
        size += len(frame)
        if len(portion) == FRAMES_PER_WRITE or size >= BYTES_PER_WRITE:
            yield len(portion), b"".join(portion)
            portion, size = [], 0
    if portion:
        yield len(portion), b"".join(portion)
