"""TCP ports: free ones, taken ones, and ones that a second `lanewise up` starting at the same moment leaves alone."""

from __future__ import annotations

import contextlib
import random
import socket
import sys

from shared.errors import ConfigurationError

LOOPBACK = "127.0.0.1"
QUIET_PORTS = range(20_000, 32_768)  # below the range from which outgoing connections take theirs
TRIES = 1000
BACKLOG = 2048


def free_port() -> int:
    """Returns a loopback port that nobody uses, drawn at random so that neighbours hardly ever meet."""
    for port in random.sample(QUIET_PORTS, TRIES):
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind((LOOPBACK, port))
            return port
    raise ConfigurationError(f"no free port on {LOOPBACK} between {QUIET_PORTS.start} and {QUIET_PORTS.stop - 1}")


def listen(host: str, port: int | None, default: int, count: int) -> list[socket.socket]:
    """Returns `count` listening sockets on consecutive ports.

    Args:
        host: an address or a name.
        port: the first port; None: `default`, or the next from which on `count` are free.
        default: where to look first.
        count: how many.

    Raises:
        ConfigurationError: the address is not ours, or the asked port is taken; the message names it.
    """
    if port is not None:
        return _listen(host, range(port, port + count))
    for first in range(default, default + TRIES):
        with contextlib.suppress(ConfigurationError):
            return _listen(host, range(first, first + count))
    return _listen(host, range(default, default + count))  # says what is wrong


def reserve(port: int | None, default: int) -> tuple[int, socket.socket]:
    """Reserves a loopback port for a child that opens it by itself, a second or two later.

    Args:
        port: the port; None: `default` or the next free one.
        default: where to look first.

    Returns:
        The port, and what to close when it is no longer needed.

    Raises:
        ConfigurationError: the asked port is taken.
    """
    for candidate in range(default, default + TRIES) if port is None else (port,):
        mark = socket.socket(socket.AF_UNIX)
        try:
            if sys.platform == "linux":  # a name outside the file system that vanishes with its process
                mark.bind(f"\0lanewise-port-{candidate}")
            for probe in _listen(LOOPBACK, range(candidate, candidate + 1)):
                probe.close()
        except (OSError, ConfigurationError):
            mark.close()
        else:
            return candidate, mark
    raise ConfigurationError(f"port {port or default} on {LOOPBACK} is taken")


def _listen(host: str, ports: range) -> list[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as stack:
        sockets = []
        for port in ports:
            try:
                sockets.append(socket.create_server((host, port), family=family, backlog=BACKLOG))
            except OSError as error:
                raise ConfigurationError(f"port {port} on {host} cannot be used: {error.strerror}") from None
            stack.callback(sockets[-1].close)
        stack.pop_all()
    return sockets
