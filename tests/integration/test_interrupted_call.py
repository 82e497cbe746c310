"""A call to Redis that something is raised in: its reply is nobody else's."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import redis

import shared.redis
from shared.redis import connect
from shared.services import Services


class InterruptedCall(Exception):  # noqa: N818 - as of a soft time limit
    pass


@contextmanager
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Raises in every call, when it is sent and its reply is not read."""

    def interrupt(*_: Any, **__: Any) -> None:
        raise InterruptedCall

    with monkeypatch.context() as patch, pytest.raises(InterruptedCall):
        patch.setattr(redis.Redis, "parse_response", interrupt)
        patch.setattr(redis.client.Pipeline, "parse_response", interrupt)
        yield


def call(client: redis.Redis, key: str) -> Any:
    return client.get(key)


def call_together(client: redis.Redis, key: str) -> Any:
    with client.pipeline(transaction=False) as pipeline:
        pipeline.get(key)
        return pipeline.execute()[0]


@pytest.mark.parametrize("get", [call, call_together])
@pytest.mark.parametrize("kept", [False, True])
def test_a_reply_that_nobody_has_read_is_not_the_next_caller_s(
    services: Services, monkeypatch: pytest.MonkeyPatch, get: Callable[[redis.Redis, str], Any], *, kept: bool
) -> None:
    if kept:  # as the library does it: the proof that it takes the wall
        monkeypatch.setattr(shared.redis, "_closing_if_interrupted", lambda _: contextlib.nullcontext())
    with connect(services.settings.redis_url.get_secret_value()) as client:
        for key in ("mine", "another's"):
            client.set(key, key, px=60_000)
        with interrupted(monkeypatch):
            get(client, "another's")
        assert get(client, "mine") == ("another's" if kept else "mine")
