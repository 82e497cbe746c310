"""`ModelSettings`: which model, where, with which key; from the environment that the zygote was given."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from worker.model.errors import ModelUnsetError

NAME = "LANEWISE_MODEL"
URL = "LANEWISE_MODEL_URL"
TIMEOUT = "LANEWISE_MODEL_TIMEOUT_S"
SILENCE = "LANEWISE_MODEL_SILENCE_S"
KEY = "OPENAI_API_KEY"  # by this name, whoever's the endpoint is; LANEWISE_SANDBOX_ENV has to list it
# The defaults of `shared.settings`, which sandboxes do not load: it would ask for the secrets that they have not.
TIMEOUT_S = 120.0
SILENCE_S = 30.0


def is_named() -> bool:
    """Tells whether there is a model: agents that do without one need no network."""
    return bool(os.environ.get(NAME))


@dataclass(frozen=True)
class ModelSettings:
    """What a client of the model needs.

    Args:
        name: of the model, as the endpoint knows it.
        url: of an OpenAI-compatible endpoint, up to `/v1`; None: OpenAI's own.
        key: sent as a bearer token.
        timeout_s: seconds for an answer in all, its retries included.
        silence_s: seconds without a sign of the endpoint.
    """

    name: str
    url: str | None = None
    key: str = field(default="", repr=False)
    timeout_s: float = TIMEOUT_S
    silence_s: float = SILENCE_S

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> ModelSettings | None:
        """Returns the settings, None without a model. The worker has checked the values when it started.

        Raises:
            ModelUnsetError: OpenAI's own endpoint without a key.
        """
        name, url, key = environ.get(NAME), environ.get(URL) or None, environ.get(KEY, "")
        if not name:
            return None
        if not key and url is None:
            raise ModelUnsetError(f"{NAME} needs a key: set {KEY} and list it in LANEWISE_SANDBOX_ENV, or set {URL}")
        timeout_s = float(environ.get(TIMEOUT) or TIMEOUT_S)
        return cls(name, url, key, timeout_s, float(environ.get(SILENCE) or SILENCE_S))
