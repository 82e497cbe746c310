"""The one message that the broker carries: "this run is ready". A hint, signed, never believed alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from shared.context import UserExecutionContext
from shared.errors import InvalidContextError, SignatureError
from shared.signing import Signer

PURPOSE = "run-message"
TASK_NAME = "lanewise.run"


@dataclass(frozen=True)
class RunMessage:
    """Asks a worker to make the attempt after `attempt` of the run in the context.

    Args:
        context: the run's root context, as stored with the run.
        attempt: the run's attempt number when the message was sent; the claim must find it unchanged.
    """

    context: UserExecutionContext
    attempt: int

    @property
    def task_id(self) -> str:
        """The Celery task id, which Flower shows."""
        return f"{self.context.run_id}:{self.attempt + 1}"

    def encode(self, signer: Signer) -> str:
        """Returns signed text."""
        return signer.sign({"context": self.context.to_dict(), "attempt": self.attempt})

    @classmethod
    def decode(cls, text: object, signer: Signer) -> Self:
        """Returns the message.

        Raises:
            SignatureError: whatever is wrong with it; there is nothing that a sender without the key should learn.
        """
        if not isinstance(text, str):
            raise SignatureError("the message is not text")
        value = signer.verify(text)
        try:
            attempt = value["attempt"]
            context = UserExecutionContext.from_dict(value["context"])
        except (InvalidContextError, KeyError, TypeError) as error:
            raise SignatureError("the message is signed but not understood") from error
        if type(attempt) is not int or attempt < 0:
            raise SignatureError("the message is signed but not understood")
        return cls(context, attempt)
