"""Where the service is, as whom, and how patiently it is asked."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from shared.errors import ConfigurationError


@dataclass(frozen=True)
class Endpoint:
    """What every connection to a service needs.

    Args:
        url: of the service, e.g. `http://127.0.0.1:8000`.
        token: a bearer token.
        timeout_s: for one answer, or one connection, seconds.
        retry_s: how long to go on trying after passing failures, seconds.

    Raises:
        ConfigurationError: the URL or the token cannot be one.
    """

    url: str
    token: str = field(repr=False)
    timeout_s: float
    retry_s: float

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigurationError(f"{self.url!r} is not the address of a service (like http://127.0.0.1:8000)")
        if not self.token or not self.token.isascii() or not self.token.isprintable():
            raise ConfigurationError("the token is empty, or has characters that no token has")
        object.__setattr__(self, "url", self.url.rstrip("/"))

    @property
    def headers(self) -> dict[str, str]:
        """The header that says who we are."""
        return {"Authorization": f"Bearer {self.token}"}

    @property
    def encrypted(self) -> bool:
        """Whether connections are by TLS."""
        return urlsplit(self.url).scheme == "https"

    @property
    def proxied(self) -> bool:
        """False for this machine: a proxy in the environment would look for the service on its own."""
        host = urlsplit(self.url).hostname or ""
        try:
            return not ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host != "localhost"
