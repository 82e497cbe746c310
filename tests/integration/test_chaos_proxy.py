"""What the fault suite's proxy and stores do, each thing seen from both ends: else a fault would prove nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg2
import psycopg2.extensions
import pytest
import redis

from tests.chaos.stores import Stores


@pytest.fixture(scope="module")
def stores() -> Iterator[Stores]:
    with Stores.start() as running:
        running.run_script("CREATE TABLE note (text text PRIMARY KEY)")
        yield running


@pytest.fixture
def session(stores: Stores) -> Iterator[psycopg2.extensions.connection]:
    """A connection through the proxy."""
    connection = psycopg2.connect(stores.database_url)
    yield connection
    connection.close()


@pytest.fixture
def client(stores: Stores) -> Iterator[redis.Redis]:
    """Redis through the proxy, with one connection."""
    with redis.Redis.from_url(stores.redis_url, socket_timeout=0.3, single_connection_client=True) as connected:
        connected.ping()
        yield connected


def notes(stores: Stores) -> list[str]:
    return sorted(row.text for row in stores.rows("SELECT text FROM note"))


def write(session: psycopg2.extensions.connection, text: str) -> None:
    with session.cursor() as cursor:
        cursor.execute("INSERT INTO note VALUES (%s)", (text,))
    session.commit()


def test_a_commit_whose_answer_is_lost_was_made(stores: Stores, session: psycopg2.extensions.connection) -> None:
    write(session, "answered")
    stores.order("postgres", "lose", what="INSERT")
    with session.cursor() as cursor:
        cursor.execute("SELECT 1")
        assert cursor.fetchone() == (1,)
    session.commit()  # of nothing
    assert stores.order("postgres", "lost") == []
    with pytest.raises(psycopg2.OperationalError):
        write(session, "not answered")
    assert stores.order("postgres", "lost") == ["INSERT INTO note"]
    assert notes(stores) == ["answered", "not answered"]
    with psycopg2.connect(stores.database_url) as again:  # and only that one
        write(again, "later")
    assert len(notes(stores)) == 3


def test_a_commit_that_fails_is_answered(stores: Stores, session: psycopg2.extensions.connection) -> None:
    session.autocommit = True
    stores.order("postgres", "lose", what="INSERT")
    with session.cursor() as cursor, pytest.raises(psycopg2.errors.NotNullViolation):
        cursor.execute("INSERT INTO note VALUES (NULL)")
    assert stores.order("postgres", "lost") == []
    stores.order("postgres", "lose", what=None)


def test_a_cut_ends_connections_and_new_ones_work(stores: Stores, client: redis.Redis) -> None:
    assert stores.order("redis", "cut", share=1, seed=1) >= 1
    with pytest.raises(redis.ConnectionError):
        client.ping()
    assert client.ping()


def test_what_is_stalled_comes_later(stores: Stores, client: redis.Redis) -> None:
    began = time.monotonic()
    assert stores.order("redis", "spoil", mood="stall", for_s=0.6) >= 1
    with pytest.raises(redis.TimeoutError):
        client.ping()
    assert stores.order("redis", "touched") >= 1
    with redis.Redis.from_url(stores.redis_url, socket_timeout=5) as patient:  # new connections too
        assert patient.ping()
    assert time.monotonic() - began >= 0.6


@pytest.mark.parametrize("mood", ["trickle", "delay"])
def test_what_is_slow_arrives_whole(stores: Stores, mood: str) -> None:
    stores.order("redis", "spoil", mood=mood, for_s=0.5)
    began = time.monotonic()
    with redis.Redis.from_url(stores.redis_url, socket_timeout=5) as patient:
        assert patient.echo("x" * 5000) == b"x" * 5000
    assert time.monotonic() - began > 0.03
    assert stores.order("redis", "touched") >= 1


def test_a_half_open_connection_swallows_and_says_nothing(stores: Stores, client: redis.Redis) -> None:
    assert stores.order("redis", "half_open", share=1, seed=1) == 1
    client.connection.send_command("SET", "swallowed", "1")  # type: ignore[union-attr]
    with pytest.raises(redis.TimeoutError):
        client.connection.read_response()  # type: ignore[union-attr]
    assert stores.order("redis", "touched") == 1
    assert stores.slots.get("swallowed") is None
    with redis.Redis.from_url(stores.redis_url) as another:
        assert another.ping()


def test_redis_comes_back_empty_and_postgres_with_everything(
    stores: Stores, session: psycopg2.extensions.connection
) -> None:
    stores.slots.set("here", "1")
    assert stores.empty_redis()["keys_after"] == 0
    with redis.Redis.from_url(stores.redis_url) as another:
        assert another.get("here") is None
    write(session, "before the restart")
    stores.restart_postgres()
    with pytest.raises(psycopg2.OperationalError):
        write(session, "during the restart")
    assert "before the restart" in notes(stores)
    with psycopg2.connect(stores.database_url) as again:
        write(again, "after the restart")
