"""`Conversation`: what a thread remembers of its exchanges with a model; bounded, the oldest are dropped."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MAX_EXCHANGES = 20
MAX_BYTES = 64 * 1024
_MAX_CHARS = 10_000  # of each side of an exchange


@dataclass(frozen=True)
class Exchange:
    """What one run was asked and what it answered."""

    run_id: str
    message: str
    answer: str


class Conversation:
    """The exchanges of a thread, oldest first.

    Args:
        exchanges: as they are remembered.
    """

    def __init__(self, exchanges: Sequence[Exchange] = ()) -> None:
        self.exchanges = tuple(exchanges)

    @classmethod
    def from_state(cls, value: Any) -> Conversation:
        """Returns the conversation that a state holds; what is none begins a new one."""
        try:
            return cls([Exchange(**item) for item in value["exchanges"]])
        except (TypeError, KeyError):
            return cls()

    def to_state(self) -> dict[str, Any]:
        """Returns it as JSON."""
        return {"exchanges": [asdict(exchange) for exchange in self.exchanges]}

    def before(self, run_id: str) -> Conversation:
        """Returns it without a run's own exchange: an earlier attempt may have saved that."""
        return Conversation([exchange for exchange in self.exchanges if exchange.run_id != run_id])

    def with_exchange(self, run_id: str, message: str, answer: str) -> Conversation:
        """Returns it with one more exchange, and as many old ones fewer as the limits demand."""
        kept = [*self.before(run_id).exchanges, Exchange(run_id, message[:_MAX_CHARS], answer[:_MAX_CHARS])]
        kept = kept[-MAX_EXCHANGES:]
        while len(kept) > 1 and _size(kept) > MAX_BYTES:
            del kept[0]
        return Conversation(kept)

    def messages(self) -> list[dict[str, str]]:
        """Returns it as the protocol has it."""
        return [
            message
            for exchange in self.exchanges
            for message in (
                {"role": "user", "content": exchange.message},
                {"role": "assistant", "content": exchange.answer},
            )
        ]


def remembering(run_id: str, message: str, answer: str) -> Callable[[Any], dict[str, Any]]:
    """Returns the function that adds an exchange to whatever a state holds by then: for `run.state.update`."""
    return lambda value: Conversation.from_state(value).with_exchange(run_id, message, answer).to_state()


def _size(exchanges: Sequence[Exchange]) -> int:
    return len(json.dumps([asdict(exchange) for exchange in exchanges], ensure_ascii=False).encode(errors="replace"))
