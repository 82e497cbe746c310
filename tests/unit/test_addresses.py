"""Whom limits by address count: nobody can choose that by a header."""

from __future__ import annotations

import pytest

from api.addresses import client_address

PROXIES = ("10.0.0.0/8", "2001:db8:ffff::1")


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("203.0.113.9", "", "203.0.113.9"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # no proxy of ours: not believed
        ("10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("10.1.2.3", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # what the client itself sent comes first
        ("10.1.2.3", "1.1.1.1,198.51.100.1 , 10.9.9.9", "198.51.100.1"),
        ("10.1.2.3", "10.7.7.7, 10.8.8.8", "10.7.7.7"),
        ("10.1.2.3", "", "10.1.2.3"),
        ("10.1.2.3", "nonsense", "10.1.2.3"),
        ("10.1.2.3", "1.1.1.1, nonsense, 10.8.8.8", "10.8.8.8"),
        ("::ffff:10.1.2.3", "198.51.100.1", "198.51.100.1"),
        ("2001:db8:ffff::1", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "", "2001:db8:1:2::/64"),
        ("", "198.51.100.1", "198.51.100.1"),  # over a Unix socket
        ("", "", ""),
    ],
)
def test_the_last_address_that_no_trusted_proxy_has(peer: str, forwarded_for: str, address: str) -> None:
    assert client_address(peer, forwarded_for, PROXIES) == address


def test_without_proxies_loopback_is_trusted_and_nobody_else() -> None:
    assert client_address("127.0.0.1", "198.51.100.1", ()) == "198.51.100.1"
    assert client_address("10.1.2.3", "198.51.100.1", ()) == "10.1.2.3"
