"""What can go wrong with a model. The messages are for users: no key, no address, nothing of the operator's account."""

from __future__ import annotations

from shared.errors import LanewiseError


class ModelError(LanewiseError):
    """The model gave no usable answer; the message says why. Agents that have rules fall back to them."""

    code, status, title = "model_failed", 502, "Model failed"


class ModelUnsetError(ModelError):
    """An agent needs a model and there is none; the message names the setting."""

    code = "model_unset"


class ModelUnavailableError(ModelError):
    """The endpoint cannot be reached, is busy, broke off or refused the request."""

    code = "model_unavailable"


class ModelTimeoutError(ModelError):
    """The model was silent for too long, or not done in time; the message names the limit."""

    code = "model_timeout"


class ModelRefusedError(ModelError):
    """The model refused, or the endpoint's content filter stopped it."""

    code = "model_refused"


class ModelProtocolError(ModelError):
    """The model or its endpoint answered with what cannot be understood."""

    code = "model_protocol"


class ModelLimitError(ModelError):
    """The model went past a limit of ours; the message names it."""

    code = "model_limit"
