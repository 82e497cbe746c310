"""From a question to passages: two rounds, the second one for terms that the first one brought up."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worker.tools.passages.question import read_question
from worker.tools.passages.ranking import Found, Weights, rank, weigh

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

ENOUGH = 0.7  # of the question's weight has to stand together in one of the best passages
_BEST = 3


@dataclass(frozen=True)
class Findings:
    """What came of a search.

    Args:
        passages: best first; none if the documents do not answer the question.
        weights: of the question's terms.
        follow_ups: terms that the best passages brought up.
    """

    passages: tuple[Found, ...]
    weights: Weights
    follow_ups: tuple[str, ...]


def search(
    session: Session, question: str, documents: Sequence[str], limit: int, say: Callable[[str], None]
) -> Findings:
    """Returns the passages that answer a question.

    Args:
        session: shows one user's passages only.
        question: in plain words.
        documents: names to look in.
        limit: of passages.
        say: tells the user what is going on.
    """
    terms = read_question(session, question)
    weights = weigh(session, terms, documents)
    say(_plan(weights))
    ranked = rank(session, terms, weights, documents)
    if not any(passage.coverage >= ENOUGH for passage in ranked[:_BEST]):
        return Findings((), weights, ())
    return Findings(tuple(ranked[:limit]), weights, ())


def _plan(weights: Weights) -> str:
    ordered = sorted(weights.of, key=lambda word: -weights.of[word])
    known = [word for word in ordered if word not in weights.missing]
    text = f"looking through {weights.passages:,} passages for {', '.join(known[:8]) or 'nothing'}"
    return f"{text}; nowhere: {', '.join(weights.missing[:8])}" if weights.missing else text
