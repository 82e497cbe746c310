"""`Reply`: what a model answered, and how it is put together from the pieces of a stream, within limits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from worker.model.errors import ModelLimitError, ModelProtocolError, ModelRefusedError, ModelUnavailableError

MAX_TEXT_CHARS = 100_000
MAX_CALLS = 16
MAX_ARGUMENT_CHARS = 64 * 1024  # of all calls of a reply
MAX_COUNT = 10**9
_MAX_NAME = 200
_MAX_REFUSAL = 500


@dataclass(frozen=True)
class ToolCall:
    """A tool that the model wants to be called. Nothing of it was checked but its size."""

    id: str
    name: str
    arguments: str  # JSON, if the model did as it should


@dataclass(frozen=True)
class Reply:
    """A whole answer.

    Args:
        truncated: it reached the limit of the model, or of this client.
        input_tokens: as the endpoint counted; 0 if it did not say.
    """

    text: str
    calls: tuple[ToolCall, ...] = ()
    truncated: bool = False
    input_tokens: int = 0
    output_tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Reply:
        """Returns what `to_dict` was called on."""
        return cls(**{**value, "calls": tuple(ToolCall(**call) for call in value["calls"])})


class ReplyBuilder:
    """Takes the pieces of a streamed answer. They come from outside: whatever is not as it should be is refused."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._chars = 0
        self._argument_chars = 0
        self._refusal = ""
        self._calls: dict[int, dict[str, str]] = {}
        self._finish: str | None = None
        self._tokens = (0, 0)
        self.full = False

    def add(self, chunk: Any) -> str:
        """Takes one piece and returns the text in it; once `full` is true the stream can be closed.

        Raises:
            ModelProtocolError: it is not of the protocol.
            ModelLimitError: too many tool calls, or too long ones.
        """
        usage = getattr(chunk, "usage", None)
        if usage is not None:
            self._tokens = _count(usage, "prompt_tokens"), _count(usage, "completion_tokens")
        choices = getattr(chunk, "choices", None)
        if not choices:
            return ""
        if not isinstance(choices, list):
            raise ModelProtocolError("the model's answer is not of the protocol: choices is not a list")
        choice = choices[0]
        self._finish = _string(choice, "finish_reason") or self._finish
        delta = getattr(choice, "delta", None)
        self._refusal = (self._refusal + _string(delta, "refusal"))[:_MAX_REFUSAL]
        for call in _listed(delta, "tool_calls"):
            self._add_call(call)
        text = _string(delta, "content")[: MAX_TEXT_CHARS - self._chars]
        self._text.append(text)
        self._chars += len(text)
        self.full = self._chars >= MAX_TEXT_CHARS
        return text

    def finish(self) -> Reply:
        """Returns the whole.

        Raises:
            ModelRefusedError: it is a refusal, or was filtered.
            ModelUnavailableError: the stream ended before the answer did.
            ModelLimitError: there was no room for an answer behind what the model thought.
            ModelProtocolError: there is nothing in it.
        """
        if self._refusal:
            raise ModelRefusedError(f"the model refused: {self._refusal}")
        if self._finish == "content_filter":
            raise ModelRefusedError("the content filter of the model's endpoint stopped the answer")
        if self._finish is None and not self.full:
            raise ModelUnavailableError("the model's answer broke off before its end")
        calls = tuple(ToolCall(**call) for _, call in sorted(self._calls.items()))
        text = "".join(self._text)
        if not text.strip() and not calls and self._finish == "length":  # a model that thinks may use it all for that
            raise ModelLimitError("the model reached the limit of an answer's tokens before it said anything")
        if not text.strip() and not calls:
            raise ModelProtocolError("the model's answer is empty")
        return Reply(text, calls, self.full or self._finish == "length", *self._tokens)

    def _add_call(self, piece: Any) -> None:
        call_id, function = _string(piece, "id"), getattr(piece, "function", None)
        index = getattr(piece, "index", None)
        if type(index) is not int:  # some endpoints number nothing: an id begins a call, what has none continues it
            index = len(self._calls) if call_id or not self._calls else max(self._calls)
        call = self._calls.setdefault(index, {"id": "", "name": "", "arguments": ""})
        if len(self._calls) > MAX_CALLS:
            raise ModelLimitError(f"the model called more than {MAX_CALLS} tools at once")
        arguments = getattr(function, "arguments", None)
        text = json.dumps(arguments) if isinstance(arguments, dict) else _string(function, "arguments")
        call["id"] = call["id"] or call_id[:_MAX_NAME]
        call["name"] = (call["name"] + _string(function, "name"))[:_MAX_NAME]
        call["arguments"] += text
        self._argument_chars += len(text)
        if self._argument_chars > MAX_ARGUMENT_CHARS:
            raise ModelLimitError(f"the arguments of the model's tool calls are longer than {MAX_ARGUMENT_CHARS:,}")


def _string(part: Any, name: str) -> str:
    value = getattr(part, name, None)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ModelProtocolError(f"the model's answer is not of the protocol: {name} is not text")
    return value


def _listed(part: Any, name: str) -> list[Any]:
    value = getattr(part, name, None)
    if value is not None and not isinstance(value, list):
        raise ModelProtocolError(f"the model's answer is not of the protocol: {name} is not a list")
    return value or []


def _count(usage: Any, name: str) -> int:
    value = getattr(usage, name, None)
    return min(value, MAX_COUNT) if type(value) is int and value > 0 else 0
