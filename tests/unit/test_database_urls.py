"""What a sandbox, which resolves no names, is told of where the database is."""

from __future__ import annotations

import socket
from typing import Any

import psycopg2
import pytest
import sqlalchemy as sa

from shared import database
from shared.database import for_sandbox

ADDRESSES = {"one.example": ["192.0.2.1"], "two.example": ["2001:db8::1", "192.0.2.2"]}


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(host: str, port: None, **_: Any) -> list[Any]:
        if host not in ADDRESSES:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(None, None, None, "", (address, port)) for address in ADDRESSES[host]]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    database._for_sandbox.cache_clear()


def arguments(url: str) -> dict[str, Any]:
    """Returns what the driver is called with."""
    parts = sa.make_url(url).set(drivername="postgresql+psycopg2")
    return dict(sa.create_engine(parts).dialect.create_connect_args(parts)[1])


def test_the_address_is_added_and_the_name_stays() -> None:
    url, ports = for_sandbox("postgresql://u:p%40ss@one.example:6432/main?sslmode=verify-full")
    assert ports == [6432]
    assert arguments(url) == {
        "host": "one.example", "hostaddr": "192.0.2.1", "port": 6432, "user": "u", "password": "p@ss",
        "dbname": "main", "sslmode": "verify-full",
    }  # fmt: skip


def test_of_several_addresses_each_is_tried() -> None:
    url, ports = for_sandbox("postgresql://u:p@two.example/main")
    assert ports == [5432]
    given = arguments(url)
    assert (given["host"], given["hostaddr"]) == ("two.example,two.example", "2001:db8::1,192.0.2.2")
    assert (given["port"], given["dbname"]) == ("5432,5432", "main")
    with pytest.raises(psycopg2.OperationalError) as refused:  # the driver takes it; nobody listens there
        psycopg2.connect(**given | {"hostaddr": "127.0.0.1,127.0.0.2", "port": "1,1", "connect_timeout": 1})
    assert "127.0.0.1" in str(refused.value)
    assert "127.0.0.2" in str(refused.value)


@pytest.mark.parametrize(
    ("url", "ports"),
    [
        ("postgresql://u:p@unknown.example/main", [5432]),
        ("postgresql://u:p@one.example/main?hostaddr=192.0.2.9", [5432]),
        ("postgresql://u:p@/main?host=a.example:6001&host=b.example:6002", [6001, 6002, 5432]),
        ("postgresql://u:p@/main?host=/var/run/postgresql", []),
        ("postgresql:///main", []),
    ],
)
def test_what_cannot_be_added_to_is_left_alone(url: str, ports: list[int]) -> None:
    assert for_sandbox(url) == (url, ports)
