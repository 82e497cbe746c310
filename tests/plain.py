"""HTTP without TLS: httpx reads all certificate authorities for each client, some 25 ms, unless it is given none."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def client(**options: Any) -> httpx.Client:
    """Returns a client for `http://` URLs; takes what `httpx.Client` takes."""
    return httpx.Client(verify=NO_AUTHORITIES, **options)


def get(url: str, **options: Any) -> httpx.Response:
    """Asks once, by a connection of its own; takes what `httpx.get` takes."""
    return httpx.get(url, verify=NO_AUTHORITIES, **options)
