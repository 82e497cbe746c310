"""What comes in from the broker is looked at before Celery acts on anything in it. What is not ours is refused."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import structlog
from celery.worker.consumer import Consumer, Gossip, Mingle
from celery.worker.control import Panel
from kombu import matcher
from kombu.message import Message
from kombu.transport import redis
from kombu.utils import json

from shared.errors import SignatureError
from shared.ids import new_id
from shared.messages import TASK_NAME, RunMessage
from shared.signing import Signer
from worker import metrics

log = structlog.get_logger(__name__)

# Of remote control what Flower and `celery status` ask. `enable_events` changes nothing here: they are always on.
LOOKS = frozenset({
    "active", "active_queues", "conf", "enable_events", "ping",
    "registered", "reserved", "revoked", "scheduled", "stats",
})  # fmt: skip
# What our sender leaves empty has to be empty: there are headers, and parts of a body, that Celery acts on.
HEADERS = frozenset({"argsrepr", "id", "ignore_result", "kwargsrepr", "lang", "origin", "parent_id", "root_id", "task"})
EMPTY_TIME_LIMIT = [None, None]
EMPTY_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def refuse(reason: str) -> None:
    """Counts and logs a message that is not ours."""
    metrics.REFUSED_MESSAGES.inc()
    log.warning("a message is refused", reason=reason)


def check(message: Message, signer: Signer) -> RunMessage:
    """Returns what was signed, if the message holds that and nothing else that our sender does not set.

    Raises:
        SignatureError: whatever is wrong with it.
    """
    headers: dict[str, Any] = message.headers
    if headers.get("task") != TASK_NAME:
        raise SignatureError("the message is for no task of ours")
    try:
        body = message.decode()
        (text,), _, _ = body
    except Exception as error:  # the decoder's, kombu's, or of another shape: it is a stranger's in any case
        raise SignatureError("the message is not understood") from error
    run = RunMessage.decode(text, signer)
    given = {name for name, value in headers.items() if value and value != EMPTY_TIME_LIMIT}
    if body != [[text], {}, EMPTY_EMBED] or given - HEADERS or headers.get("id") != run.task_id:
        raise SignatureError("the message carries more than what was signed")
    return run


class SignedConsumer(Consumer):
    """Celery's consumer, which is given only what was signed.

    Args:
        signer: checks the messages.
    """

    connection_errors: tuple[type[Exception], ...]

    def __init__(self, *args: Any, signer: Signer, **options: Any) -> None:
        self._signer = signer
        super().__init__(*args, **options)

    def create_task_handler(self, *args: Any) -> Callable[[Message], None]:
        """Returns what is called with each message of a queue."""
        take = super().create_task_handler(*args)

        def look(message: Message) -> None:
            try:
                run = check(message, self._signer)
            except SignatureError as error:
                refuse(error.message)
                message.ack_log_error(log, self.connection_errors)
                return
            # Made anew, so that it does not matter which others Celery knows. Flower shows `argsrepr`.
            message.headers = {"task": TASK_NAME, "id": run.task_id, "argsrepr": "(signed)", "kwargsrepr": "{}"}
            message.properties = {}
            take(message)

        return look

    def on_decode_error(self, message: Message, _: Exception) -> None:
        """Drops what kombu could not unpack."""
        refuse("the message is not understood")
        message.ack_log_error(log, self.connection_errors)


class SturdyMessage(redis.Channel.Message):  # type: ignore[misc, valid-type]
    """kombu's message, but what has another shape is a message with an error, where it would end the worker."""

    def __init__(self, payload: Any, **options: Any) -> None:
        try:
            super().__init__(payload, **options)
            # What kombu keeps of it until it is acknowledged has to be text.
            "".join((self.delivery_tag, self.delivery_info["exchange"], self.delivery_info["routing_key"]))
        except Exception:  # noqa: BLE001 - a stranger made it: there is no end of what can be wrong
            nowhere = {"exchange": "", "routing_key": ""}
            super().__init__({"properties": {"delivery_tag": new_id(), "delivery_info": nowhere}}, **options)
            self.errors = [sys.exc_info()]


def _loads(text: str) -> Any:
    """Returns what a queue's list holds, or what is no message: see `SturdyMessage`."""
    try:
        return json.loads(text)
    except Exception:  # noqa: BLE001 - as above; kombu also reads types of its own
        return {}


class Looks(dict[str, Callable[..., Any]]):
    """Commands of remote control by name. Whoever has the broker's login can send them: those that act are refused."""

    def __missing__(self, name: str) -> Callable[..., Any]:
        refuse("a command is not signed")
        return lambda *_, **__: {"error": "refused"}


def harden() -> None:
    """Leaves of remote control what looks, and no way for workers to talk to each other. For this process, for good."""
    Panel.data = Looks((name, command) for name, command in Panel.data.items() if name in LOOKS)
    Panel.meta = {name: about for name, about in Panel.meta.items() if name in LOOKS}
    # A broadcast chooses its workers by a pattern. An expression could take for ever, so that it never fits.
    matcher.register("pcre", lambda *_: False)
    Mingle.compatible_transports = Gossip.compatible_transports = set()
    redis.Channel.Message = SturdyMessage
    setattr(redis, "loads", _loads)  # noqa: B010 - it is none that kombu exports
