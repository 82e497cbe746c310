"""Structured logs, one JSON object a line, with run and correlation ids; user ids shortened, secrets removed."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from shared.ids import short_user

_SECRET_NAME = re.compile(r"(secret|password|passwd|token|authorization|api_?key|cookie|ticket)", re.IGNORECASE)
_SECRET_VALUE = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)|eyJ[\w-]+\.[\w-]+\.[\w-]*|(?<=[Bb]earer )\S+")
REMOVED = "[removed]"


def redact(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Shortens user ids and removes secrets, known by name or by form, at the last moment before the sink."""
    for key, value in event.items():
        event[key] = _clean(key, value)
    return event


def _clean(key: str, value: Any) -> Any:
    if value is not None and _SECRET_NAME.search(key):
        return REMOVED
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {str(name): _clean(str(name), item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_clean(key, item) for item in value]
    if key == "user_id":
        return short_user(str(value))
    return _SECRET_VALUE.sub(REMOVED, str(value))  # exceptions and other objects as well: what is printed is cleaned


def configure(level: str, process: str) -> None:
    """Sends the logs of this process, libraries included, to standard error.

    Args:
        level: DEBUG, INFO, WARNING or ERROR.
        process: what to call it in each line: `api`, `worker`, `zygote`.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level)),
        cache_logger_on_first_use=True,
    )
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            lambda _logger, _method, event: {"process": process, **event},
            structlog.processors.format_exc_info,
            redact,
            structlog.processors.JSONRenderer(),
        ],
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for noisy in ("kombu", "celery", "gevent", "alembic", "sqlalchemy", "amqp"):
        logging.getLogger(noisy).setLevel(max(logging.getLevelName(level), logging.WARNING))
