"""Postgres first, Redis after: whatever is published exists."""

from __future__ import annotations

import json
from collections.abc import Iterator

import redis
import sqlalchemy as sa

from lanewise.process import wait_until
from tests.nodes import Node

PATIENCE_S = 10.0


def types(subscription: redis.client.PubSub) -> Iterator[str]:
    """Yields the types of the events that were published, up to the next message that tells of none."""
    while True:
        message = subscription.get_message(timeout=PATIENCE_S)
        assert message is not None, "nothing was published"
        views = json.loads(message["data"])
        if not views:
            return
        yield from (view["type"] for view in views)


def test_the_last_event_is_published_only_after_its_commit(
    node: Node, redis_client: redis.Redis, superuser: sa.Connection
) -> None:
    channel = node.services.keys.events("alice")
    run = node.begin("wait")
    node.wait_for_text(run)
    with redis_client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
        subscription.subscribe(channel)
        subscription.get_message(timeout=PATIENCE_S)
        with node.services.database.user_session("alice") as holder:
            holder.execute(sa.text("SELECT FROM runs FOR KEY SHARE"))  # holds off the end, and nothing else
            node.live(run).cancel()
            waiting = sa.text("SELECT count(*) FROM pg_locks WHERE NOT granted")
            assert wait_until(lambda: bool(superuser.execute(waiting).scalar()), PATIENCE_S)
            redis_client.publish(channel, "[]")
            assert "run_cancelled" not in list(types(subscription))
        assert node.wait(run).status == "cancelled"
        node.join()
        redis_client.publish(channel, "[]")
        assert list(types(subscription))[-1] == "run_cancelled"
