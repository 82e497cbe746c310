"""Terms that stand out in the best passages and were not asked for: what to look up next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from worker.tools.passages.question import Term, read_terms, words_of
from worker.tools.passages.ranking import Found, Weights, weigh

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

MAX_FOLLOW_UPS = 4
_CONSIDERED = 10
_MIN_LENGTH = 4
_SHARE = 0.4  # what a term that was not asked for counts beside one that was


def follow_up_terms(
    session: Session, terms: Sequence[Term], passages: Sequence[Found], documents: Sequence[str]
) -> list[tuple[Term, float]]:
    """Returns at most 4 terms with their weights: names first, said often here and seldom elsewhere."""
    asked = {lexeme for term in terms for group in term.alternatives for lexeme in group}
    counts: Counter[str] = Counter()
    names: Counter[str] = Counter()
    for passage in passages:
        for word, is_name in words_of(passage.text):
            if len(word) >= _MIN_LENGTH and not word[0].isdigit():
                counts[word] += 1
                names[word] += is_name
    ordered = sorted(counts, key=lambda word: (-2 * names[word] - counts[word], word))
    candidates = [
        term
        for term in read_terms(session, ((word, names[word] > 0) for word in ordered[: 4 * _CONSIDERED]))
        if not asked.intersection(lexeme for group in term.alternatives for lexeme in group)
    ][:_CONSIDERED]
    weights = weigh(session, [replace(term, is_name=False) for term in candidates], documents)
    elsewhere = [term for term in candidates if weights.hits[term.word] > 1]
    best = sorted(elsewhere, key=lambda term: -weights.of[term.word] * (1 + term.is_name))[:MAX_FOLLOW_UPS]
    return [(term, weights.of[term.word]) for term in best]


def follow_up_weights(weights: Weights, brought_up: Sequence[tuple[Term, float]]) -> Weights:
    """Returns the question's weights with those of the terms that it brought up, at a discount."""
    further = {term.word: _SHARE * weight for term, weight in brought_up}
    return replace(weights, of=further | weights.of)
