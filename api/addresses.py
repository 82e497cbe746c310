"""Where a request comes from: the peer, or what proxies that are trusted say of it."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from flask import request

LOOPBACK = ("127.0.0.1", "::1")  # trusted where no proxies are named, as for X-Forwarded-Proto
NETWORK_BITS = 64  # of IPv6: what one customer of a provider has at least


def request_address(trusted_proxies: Sequence[str]) -> str:
    """Returns where the present request comes from, see `client_address`."""
    return client_address(request.remote_addr or "", request.headers.get("X-Forwarded-For", ""), trusted_proxies)


def client_address(peer: str, forwarded_for: str, trusted_proxies: Sequence[str]) -> str:
    """Returns the address that limits count by; of IPv6 its network.

    Anybody can send a header, and each proxy adds the address that it sees itself at the end: so the addresses are gone
    through from there, up to the first one that no trusted proxy has.

    Args:
        peer: who has connected to us; not an address if it came over a Unix socket.
        forwarded_for: all of `X-Forwarded-For`.
        trusted_proxies: addresses and networks.
    """
    trusted = [ip_network(item, strict=False) for item in trusted_proxies or LOOPBACK]
    found = _parse(peer)
    for text in reversed(forwarded_for.split(",")):
        if found is not None and not any(found in network for network in trusted):
            break
        further = _parse(text.strip())
        if further is None:
            break
        found = further
    if isinstance(found, IPv6Address):
        return str(ip_network((found, NETWORK_BITS), strict=False))
    return peer if found is None else str(found)


def _parse(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address
