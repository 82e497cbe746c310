"""`UserExecutionContext`: who a piece of work belongs to, handed down through every layer of a run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Self

from shared.errors import InvalidContextError
from shared.ids import new_id
from shared.jsonvalue import freeze, has_nul, thaw

MAX_ID_LENGTH = 128
RESERVED_ENDINGS = ("/limits", "/grants", "/revoke", "/deletion")  # paths of calls about a user
MAX_DEPTH = 16
MAX_NESTED_BYTES = 16 * 1024
PLACEHOLDERS = frozenset(
    {"", "none", "null", "nil", "undefined", "default", "system", "anonymous", "unknown", "placeholder", "n/a", "*"}
)

_REQUIRED = ("thread_id", "run_id", "request_id", "correlation_id", "operation_name")
_OPTIONAL = ("websocket_client_id", "parent_request_id")
_NESTED = ("agent_context", "audit_metadata")


@dataclass(frozen=True, kw_only=True)
class UserExecutionContext:
    """The identity of one piece of work. Frozen all the way down; carries no session and no connection.

    Args:
        user_id: the verified subject; never taken from a request's body.
        thread_id: the conversation that the run belongs to.
        run_id: the run.
        request_id: this step of it: a child has one of its own.
        correlation_id: the same in every log line, event and audit row of the run.
        operation_name: what is being done, e.g. `run` or `tool:data_helper`.
        websocket_client_id: the connection that submitted it, if one did.
        parent_request_id: `request_id` of the parent; None at the root.
        depth: 0 at the root, one more for each child, at most 16.
        agent_context: JSON for the agents, read-only, at most 16 KiB.
        audit_metadata: JSON for the audit trail, read-only, at most 16 KiB.
        created_at: when, in UTC.

    Raises:
        InvalidContextError: naming the field that is empty, a placeholder, too long or of the wrong type.
    """

    VERSION: ClassVar[int] = 1

    user_id: str
    thread_id: str
    run_id: str
    request_id: str = field(default_factory=new_id)
    correlation_id: str = field(default_factory=new_id)
    operation_name: str = "run"
    websocket_client_id: str | None = None
    parent_request_id: str | None = None
    depth: int = 0
    agent_context: Mapping[str, Any] = field(default_factory=dict)
    audit_metadata: Mapping[str, Any] = field(default_factory=dict)
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __post_init__(self) -> None:
        for name in _NESTED:
            object.__setattr__(self, name, _frozen_mapping(name, getattr(self, name)))
        validate_user_context(self)

    @classmethod
    def from_request(cls, user_id: str, thread_id: str, run_id: str, **optional: Any) -> Self:
        """Returns the root context of a run that came by REST."""
        return cls(user_id=user_id, thread_id=thread_id, run_id=run_id, **optional)

    @classmethod
    def from_websocket_request(
        cls, user_id: str, thread_id: str, run_id: str, *, connection_id: str, **optional: Any
    ) -> Self:
        """Returns the root context of a run that came over a WebSocket connection."""
        return cls(user_id=user_id, thread_id=thread_id, run_id=run_id, websocket_client_id=connection_id, **optional)

    def create_child_context(
        self,
        operation_name: str,
        additional_agent_context: Mapping[str, Any] | None = None,
        additional_audit_metadata: Mapping[str, Any] | None = None,
    ) -> Self:
        """Returns the context of one operation inside this one: same user, run and correlation, a request of its own.

        Raises:
            InvalidContextError: a bad name, or deeper than 16.
        """
        return replace(
            self,
            request_id=new_id(),
            parent_request_id=self.request_id,
            operation_name=operation_name,
            depth=self.depth + 1,
            agent_context={**self.agent_context, **(additional_agent_context or {})},
            audit_metadata={**self.audit_metadata, **(additional_audit_metadata or {})},
            created_at=datetime.now(UTC),
        )

    def get_correlation_id(self) -> str:
        """Returns the id that ties together everything which belongs to the run."""
        return self.correlation_id

    def to_dict(self) -> dict[str, Any]:
        """Returns fresh JSON values, with the version of the format."""
        values = {item.name: thaw(getattr(self, item.name)) for item in fields(self)}
        return {**values, "created_at": self.created_at.isoformat(), "v": self.VERSION}

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Returns the context that `to_dict` wrote.

        Raises:
            InvalidContextError: another version, an unknown or missing field, or a bad value.
        """
        if not isinstance(data, dict) or data.get("v") != cls.VERSION:
            raise _invalid("v", f"is not version {cls.VERSION} of the context")
        names = {item.name for item in fields(cls)}
        values = {key: value for key, value in data.items() if key != "v"}
        if values.keys() != names:
            raise _invalid(min(map(str, values.keys() ^ names)), "is unknown or missing")
        try:
            created_at = datetime.fromisoformat(values.pop("created_at"))
        except (TypeError, ValueError):
            raise _invalid("created_at", "is not an RFC 3339 time") from None
        return cls(created_at=created_at, **values)


def validate_user_context(context: Any) -> UserExecutionContext:
    """Returns the context if every field of it is sound.

    A frozen dataclass can still be tampered with by `object.__setattr__`; each layer that is handed a context calls
    this before it trusts it.

    Raises:
        InvalidContextError: naming the first bad field.
    """
    if not isinstance(context, UserExecutionContext):
        raise _invalid("context", f"must be a UserExecutionContext, not {type(context).__name__}")
    check_user_id(context.user_id)
    for name in _REQUIRED:
        _check_text(name, getattr(context, name))
    for name in _OPTIONAL:
        if getattr(context, name) is not None:
            _check_text(name, getattr(context, name))
    depth = context.depth
    if not isinstance(depth, int) or isinstance(depth, bool) or not 0 <= depth <= MAX_DEPTH:
        raise _invalid("depth", f"must be a whole number from 0 to {MAX_DEPTH}")
    if (depth == 0) != (context.parent_request_id is None):
        raise _invalid("parent_request_id", "must be set below the root and only there")
    if not isinstance(context.created_at, datetime) or context.created_at.tzinfo is None:
        raise _invalid("created_at", "must be a time with a zone")
    for name in _NESTED:
        value = getattr(context, name)
        if type(value).__name__ != "mappingproxy":
            raise _invalid(name, "is not read-only: it was replaced after the context was made")
    return context


def check_user_id(user_id: Any) -> str:
    """Returns a user id that may own rows and keys; refuses empty, placeholder, over-long and control characters.

    Also refused is what ends like a call of an administrator about a user: no such call could name that user.
    """
    _check_text("user_id", user_id)
    if user_id.endswith(RESERVED_ENDINGS):
        raise _invalid("user_id", f"ends in {user_id[user_id.rindex('/') :]!r}, which is reserved")
    return str(user_id)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _invalid(name, f"must be a string, not {type(value).__name__}")
    if value.strip().lower() in PLACEHOLDERS:
        raise _invalid(name, f"is empty or a placeholder ({value!r})")
    if len(value) > MAX_ID_LENGTH:
        raise _invalid(name, f"has {len(value)} characters; the limit is {MAX_ID_LENGTH}")
    if not value.isprintable() or value != value.strip():
        raise _invalid(name, "has control characters or surrounding space")


def _frozen_mapping(name: str, value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _invalid(name, f"must be a mapping, not {type(value).__name__}")
    try:
        frozen = freeze(value, name)
        size = len(json.dumps(thaw(frozen), ensure_ascii=False).encode())
    except UnicodeEncodeError:
        raise _invalid(name, "contains a lone surrogate, which is not text") from None
    except (TypeError, ValueError) as error:
        raise _invalid(name, str(error)) from None
    if has_nul(frozen):
        raise _invalid(name, "contains the character U+0000")
    if size > MAX_NESTED_BYTES:
        raise _invalid(name, f"is larger than {MAX_NESTED_BYTES} bytes")
    return frozen


def _invalid(name: str, problem: str) -> InvalidContextError:
    return InvalidContextError(f"{name} {problem}", errors=[{"field": name, "message": problem}])
