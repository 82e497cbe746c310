"""REST calls that are repeated while what is in their way may pass."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from typing import Any

import httpx

from lanewise.endpoint import Endpoint
from lanewise.errors import ApiError, UnreachableError
from lanewise.retry import backoff_s

Json = dict[str, Any]

PASSING = frozenset({429, 502, 503, 504})
PAGE = 100


class Rest:
    """Sends requests to one service; httpx keeps its connections.

    Args:
        endpoint: the service.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._http = httpx.Client(
            base_url=endpoint.url,
            headers=endpoint.headers,
            timeout=endpoint.timeout_s,
            trust_env=endpoint.proxied,
            # To read all certificate authorities takes some 25 ms. Without one, nothing is trusted by mistake.
            verify=True if endpoint.encrypted or endpoint.proxied else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
        )

    def close(self) -> None:
        """Closes the connections."""
        self._http.close()

    def pages(self, path: str, **filters: str | None) -> Iterator[Json]:
        """Iterates over the items of a list, asking for the next page when it is needed."""
        params: dict[str, str | int] = {key: value for key, value in filters.items() if value is not None}
        while True:
            page = self.json("GET", path, params={"limit": PAGE, **params})
            yield from page["items"]
            if page.get("next_cursor") is None:
                return
            params["cursor"] = page["next_cursor"]

    def json(self, method: str, path: str, **request: Any) -> Json:
        """Returns the JSON object that a call answers; see `call`."""
        try:
            answer = self.call(method, path, **request).json()
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise UnreachableError(f"{self._endpoint.url} does not answer like a Lanewise service: is the URL right?")
        return answer

    def call(self, method: str, path: str, *, passing: frozenset[int] = PASSING, **request: Any) -> httpx.Response:
        """Sends a request until it is answered for good, for `retry_s` at most.

        Args:
            method: of HTTP.
            path: below the service's URL, quoted.
            passing: statuses after which to try again; empty: a single try, for what must not be repeated.
            request: what `httpx.Client.request` takes.

        Raises:
            ApiError: the answer is a problem.
            UnreachableError: there is no answer.
        """
        deadline = time.monotonic() + self._endpoint.retry_s
        failures = 0
        while True:
            answer = self._once(method, path, request)
            if isinstance(answer, httpx.Response):
                return answer
            failures += 1
            if not passing or (isinstance(answer, ApiError) and not _passes(answer, passing)):
                raise answer
            pause_s = max(answer.retry_after_s or 0.0, backoff_s(failures))
            # One more try at least: the first may have spent all the time on waiting for an answer that was lost.
            if time.monotonic() + pause_s > deadline and (failures > 1 or pause_s > self._endpoint.retry_s):
                raise answer
            time.sleep(pause_s)

    def _once(self, method: str, path: str, request: Json) -> httpx.Response | ApiError | UnreachableError:
        try:
            response = self._http.request(method, path, **request)
        except httpx.TimeoutException:
            return UnreachableError(f"{self._endpoint.url} did not answer in time")
        except httpx.TransportError as error:
            return UnreachableError(f"{self._endpoint.url} cannot be reached: {error or type(error).__name__}")
        if response.is_success:
            return response
        return ApiError.from_body(response.status_code, response.content, response.headers.get("Retry-After"))


def _passes(answer: ApiError, passing: frozenset[int]) -> bool:
    """Whether it is worth another try. A 409 that says when: an earlier try of ours is still being handled."""
    return answer.status in passing or answer.retry_after_s is not None
