"""`Door`: the only way out for fetched pages: resolves a name once, checks all addresses, connects to one of those."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

import httpcore

from worker.authoring import ToolError

NETWORKS = "LANEWISE_FETCH_NETWORKS"
PORTS = "LANEWISE_FETCH_PORTS"
CONNECT_S = 5.0
# The only part of IPv6 that is given out for the internet. IPv4-mapped and NAT64 addresses, among others, are outside.
_INTERNET_6 = ip_network("2000::/3")
# What `is_global` takes for public, at least in some versions of Python, and is not, or is another address in disguise.
_NOT_PUBLIC = tuple(
    ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's metadata
        "192.0.0.0/24",  # protocol assignments; Oracle's metadata
        "192.88.99.0/24",  # relays of 6to4
        "2001::/23",  # protocol assignments, Teredo
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)

Address = IPv4Address | IPv6Address
Resolve = Callable[[str], Awaitable[Sequence[str]]]


class RefusedError(ToolError):
    """It is not allowed to fetch this; nothing was sent."""

    code = "refused"


def is_public(address: Address) -> bool:
    """Tells whether an address is one of the public internet."""
    if not address.is_global or address.is_multicast or any(address in network for network in _NOT_PUBLIC):
        return False
    return address.version == 4 or address in _INTERNET_6  # noqa: PLR2004 - the version's name


@dataclass(frozen=True)
class Reach:
    """What may be fetched from.

    Args:
        networks: inside ones that are permitted all the same.
        ports: all that are permitted.
    """

    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    ports: frozenset[int] = frozenset({80, 443})

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Reach:
        """Returns what the operator allows. The worker has checked the values when it started."""
        networks = tuple(ip_network(part, strict=False) for part in _list(environ.get(NETWORKS)))
        return cls(networks, frozenset(map(int, _list(environ.get(PORTS)))) or cls.ports)

    def allows(self, address: Address) -> bool:
        """Tells whether an address may be connected to."""
        return is_public(address) or any(address in network for network in self.networks)


def _list(text: str | None) -> list[str]:
    return [part.strip() for part in (text or "").split(",") if part.strip()]


async def look_up(host: str) -> Sequence[str]:
    """Returns the addresses that the system has for a host.

    In a thread of its own: the end of an event loop would wait for one of its executor, and name servers may be slow.

    Raises:
        OSError: there are none.
        ValueError: it cannot be a host's name.
    """
    found: Future[Sequence[str]] = Future()
    found.set_running_or_notify_cancel()  # from here on nobody can cancel it, only cease to wait

    def work() -> None:
        try:
            found.set_result([str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)])
        except (OSError, ValueError) as error:
            found.set_exception(error)

    threading.Thread(target=work, daemon=True).start()
    return await asyncio.wrap_future(found)


class Door(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore, to allowed addresses only. TLS and `Host` keep to the name in the URL.

    Args:
        reach: what is allowed.
        resolve: gives the addresses of a host, of an address itself.
        network: opens the connection; it is only ever given an address that was checked.
    """

    def __init__(
        self, reach: Reach, resolve: Resolve = look_up, network: httpcore.AsyncNetworkBackend | None = None
    ) -> None:
        self._reach = reach
        self._resolve = resolve
        self._network = network or httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - as the base class has it
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connects to the first address that answers.

        Raises:
            RefusedError: the port, or any of the addresses, is not allowed; or there is none.
            ConnectError: no address answers; `ConnectTimeout` likewise.
        """
        if port not in self._reach.ports:
            raise RefusedError(
                f"port {port} is not fetched from, only {', '.join(map(str, sorted(self._reach.ports)))}"
            )
        failure: Exception = httpcore.ConnectError("no address answers")
        for address in await self._checked(host):
            try:
                return await self._network.connect_tcp(str(address), port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        raise failure

    async def _checked(self, host: str) -> Sequence[Address]:
        try:
            addresses = [ip_address(text) for text in await self._resolve(host)]
        except (OSError, ValueError):
            addresses = []
        if not addresses or not all(map(self._reach.allows, addresses)):
            # The same words for both: nobody is to find out which names there are inside.
            raise RefusedError(
                f"{host[:100]} has no address that may be fetched from: it has to be on the public internet"
            )
        return addresses
