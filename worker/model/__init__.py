"""The language model that agents may use, if `LANEWISE_MODEL` names one: any OpenAI-compatible endpoint.

`Model.from_environment(run.record_usage)` gives the model or None; `await model.complete(messages, Schema)` an answer
of that form, or a `ModelError`, after which an agent falls back to its rules.
"""

from __future__ import annotations

from worker.model.client import Model
from worker.model.errors import (
    ModelError,
    ModelLimitError,
    ModelProtocolError,
    ModelRefusedError,
    ModelTimeoutError,
    ModelUnavailableError,
    ModelUnsetError,
)
from worker.model.reply import Reply, ToolCall

__all__ = [
    "Model",
    "ModelError",
    "ModelLimitError",
    "ModelProtocolError",
    "ModelRefusedError",
    "ModelTimeoutError",
    "ModelUnavailableError",
    "ModelUnsetError",
    "Reply",
    "ToolCall",
]
