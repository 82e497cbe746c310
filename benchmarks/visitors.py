"""Clients that come and go, most of them badly: what a gateway must not keep anything of."""

from __future__ import annotations

import itertools
import random
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple

from benchmarks.watchers import text_frame, upgrade_request

HELLO = b'{"t":"hello","v":1,"after":null}'
GREENLETS_PATH = "/greenlets"  # of `counted_api`
TIMEOUT_S = 30.0
CLOSE = bytes((0x88, 0x82, 0, 0, 0, 0)) + struct.pack("!H", 1000)
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: closing sends a reset


class Gateway(NamedTuple):
    """Where visitors go.

    Args:
        address: host and port.
        tokens: of the users that they are.
    """

    address: tuple[str, int]
    tokens: Sequence[str]


def _upgrade(sock: socket.socket, token: str | None) -> None:
    sock.sendall(upgrade_request("/v1/stream", token))
    _read_until(sock, b"\r\n\r\n")


def _live(sock: socket.socket, token: str) -> None:
    _upgrade(sock, token)
    sock.sendall(text_frame(HELLO))
    _read_until(sock, b'{"t":"live"')


def _read_until(sock: socket.socket, mark: bytes) -> None:
    seen = b""
    while mark not in seen:
        data = sock.recv(65_536)
        if not data:
            raise ConnectionError("closed by the gateway")
        seen += data


def _read_to_end(sock: socket.socket) -> None:
    while sock.recv(65_536):
        pass


def polite(sock: socket.socket, token: str) -> None:
    """Says goodbye."""
    _live(sock, token)
    sock.sendall(CLOSE)
    _read_to_end(sock)


def cut(sock: socket.socket, token: str) -> None:
    """Is gone with a reset while events come."""
    _live(sock, token)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def cut_early(sock: socket.socket, token: str) -> None:
    """Is gone before its hello."""
    _upgrade(sock, token)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)


def half_closed(sock: socket.socket, token: str) -> None:
    """Will say nothing more, and reads."""
    _live(sock, token)
    sock.shutdown(socket.SHUT_WR)
    _read_to_end(sock)


def half_frame(sock: socket.socket, token: str) -> None:
    """Is gone in the middle of a frame."""
    _live(sock, token)
    sock.sendall(text_frame(HELLO)[:9])


def half_request(sock: socket.socket, token: str) -> None:
    """Is gone in the middle of the upgrade."""
    sock.sendall(upgrade_request("/v1/stream", token)[:40])


def bad_hello(sock: socket.socket, token: str) -> None:
    """Speaks another version."""
    _upgrade(sock, token)
    sock.sendall(text_frame(b'{"t":"hello","v":2}'))
    _read_to_end(sock)


def bad_frame(sock: socket.socket, token: str) -> None:
    """Sends what is no frame."""
    _live(sock, token)
    sock.sendall(b"\xff" * 20)
    _read_to_end(sock)


def stranger(sock: socket.socket, token: str) -> None:
    """Has no token."""
    del token
    _upgrade(sock, None)
    sock.sendall(text_frame(HELLO))
    _read_to_end(sock)


def silent(sock: socket.socket, token: str) -> None:
    """Says no hello."""
    _upgrade(sock, token)
    _read_to_end(sock)


def mute(sock: socket.socket, token: str) -> None:
    """Answers no ping, as a peer whose network is gone: until the gateway gives it up, after a minute."""
    sock.settimeout(120)
    _live(sock, token)
    _read_to_end(sock)


QUICK = (polite, cut, cut_early, half_closed, half_frame, half_request, bad_hello, bad_frame, stranger)
PATIENT = (silent, mute)  # they wait for the gateway's time limits


def churn(gateway: Gateway, go_on: Callable[[int], bool], threads: int, patient: int = 0) -> Counter[str]:
    """Has visitors of all kinds come and go.

    Args:
        gateway: where.
        go_on: whether a new one shall come; given how many there were.
        threads: how many are there at once.
        patient: how many of those that stay long, besides.

    Returns:
        how many of each kind there were.
    """
    seen: Counter[str] = Counter()
    errors: list[BaseException] = []

    def visit(kinds: Sequence[Callable[[socket.socket, str], None]]) -> None:
        try:
            for kind in itertools.cycle(random.sample(kinds, len(kinds))):
                if errors or not go_on(seen.total()):
                    return
                with socket.create_connection(gateway.address, TIMEOUT_S) as sock:
                    with suppress(ConnectionResetError, BrokenPipeError):  # closed with something unread
                        kind(sock, random.choice(gateway.tokens))  # noqa: S311 - any will do
                    seen[kind.__name__] += 1
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    crowd = [threading.Thread(target=visit, args=(kinds,)) for kinds in [QUICK] * threads + [PATIENT] * patient]
    for thread in crowd:
        thread.start()
    for thread in crowd:
        thread.join()
    if errors:
        raise errors[0]
    return seen
