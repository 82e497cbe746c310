"""The Python client on the real gateway: what becomes of a token that is not taken, or not any more."""

from __future__ import annotations

import httpx
import pytest

from lanewise import ApiError, Client
from shared.tokens import LEEWAY_S
from tests.integration.api.conftest import Fleet


def test_a_bad_token_is_an_error_at_once(fleet: Fleet) -> None:
    with Client(fleet.server.url, "no-token", retry_s=60) as client, client.stream(0) as stream:
        with pytest.raises(ApiError, match="not valid") as caught:
            next(stream)
        assert (caught.value.status, stream.connections) == (401, 1)


def test_a_revoked_token_ends_the_stream(fleet: Fleet, user: str) -> None:
    fleet.server.submit(user)
    with Client(fleet.server.url, fleet.server.token(user)) as client, client.stream(0) as stream:
        assert next(stream)["type"] == "run_queued"
        admin = {"Authorization": f"Bearer {fleet.server.token('root', scopes=('admin',))}"}
        assert httpx.post(f"{fleet.server.url}/v1/admin/users/{user}/revoke", headers=admin).is_success
        with pytest.raises(ApiError, match="revoked") as caught:
            next(stream)
        assert caught.value.status == 401


def test_a_token_that_expires_ends_the_stream(fleet: Fleet, user: str) -> None:
    """It has ended, but is taken for some seconds yet: a stream that begins with it ends soon, with what there was."""
    fleet.server.submit(user)
    token = fleet.server.token(user, ttl_s=5 - LEEWAY_S)
    with Client(fleet.server.url, token) as client, client.stream(0) as stream:
        assert next(stream)["type"] == "run_queued"
        with pytest.raises(ApiError, match="expired") as caught:
            next(stream)
        assert caught.value.status == 401
