"""From a question to passages: two rounds, the second one for terms that the first one brought up."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import TYPE_CHECKING

from worker.tools.passages.followups import follow_up_terms, follow_up_weights
from worker.tools.passages.question import Term, phrases, read_question
from worker.tools.passages.ranking import ENOUGH, Found, Weights, rank, weigh

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

MAX_PARTS = 4
_BEST = 3
_FLOOR = 0.4  # of the best score: what is worth showing
_RELATED = 0.3  # of the question's weight: what a passage holds that has at least something to do with it
_PARTS = re.compile(
    r"(?<=[?!;])\s+|(?<=[a-z]{3}\.)\s+(?=[A-Z])|,?\s+and\s+(?=(?:what|who|whom|whose|when|where|which|why|how)\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Findings:
    """What came of a search.

    Args:
        passages: best first; none if the documents do not answer the question.
        weights: of the question's terms.
        unanswered: the parts of the question that the documents do not answer.
        follow_ups: terms that the best passages brought up.
        nearest: if nothing was found, the passage that came nearest, if any came near.
    """

    passages: tuple[Found, ...]
    weights: Weights
    unanswered: tuple[str, ...] = ()
    follow_ups: tuple[str, ...] = ()
    nearest: Found | None = None


class Search:
    """Answers questions from passages.

    Args:
        session: shows one user's passages only.
        documents: names to look in.
        say: tells the user what is going on.
    """

    def __init__(self, session: Session, documents: Sequence[str], say: Callable[[str], None]) -> None:
        self._session = session
        self._documents = documents
        self._say = say

    def answer(self, question: str, limit: int) -> Findings:
        """Returns at most `limit` passages that answer a question, or some part of it."""
        terms, weights = self._read(question)
        self._say(_plan(weights))
        answered: list[list[Found]] = []
        unanswered: list[str] = []
        nearest: Found | None = None
        parts = _parts(question)
        for part in parts:
            of_part = (terms, weights) if len(parts) == 1 else self._read(part)
            if not of_part[0]:
                continue
            ranked = self._first_round(*of_part, phrases(part))
            if any(passage.coverage >= ENOUGH for passage in ranked[:_BEST]):
                answered.append(ranked)
            else:
                unanswered.append(part)
                nearest = nearest or next((passage for passage in ranked if passage.coverage >= _RELATED), None)
        first = _in_turn(answered)
        if not first:
            return Findings((), weights, tuple(unanswered), nearest=nearest)
        good = [passage for passage in first if passage.score >= _FLOOR * first[0].score]
        if phrases(question):  # the asker wants those and nothing beside
            return Findings(_different(good)[:limit], weights, tuple(unanswered))
        follow_ups, found = self._second_round(terms, weights, first)
        second = [replace(passage, score=min(passage.score, good[-1].score)) for passage in found]
        return Findings(_different([*good, *second])[:limit], weights, tuple(unanswered), follow_ups)

    def _read(self, question: str) -> tuple[list[Term], Weights]:
        terms = read_question(self._session, question)
        return terms, weigh(self._session, terms, self._documents)

    def _first_round(self, terms: Sequence[Term], weights: Weights, wanted: Sequence[str]) -> list[Found]:
        return [
            passage
            for passage in rank(self._session, terms, weights, self._documents)
            if all(phrase in _plain(f"{passage.heading} {passage.text}") for phrase in wanted)
        ]

    def _second_round(
        self, terms: Sequence[Term], weights: Weights, first: Sequence[Found]
    ) -> tuple[tuple[str, ...], list[Found]]:
        brought_up = follow_up_terms(self._session, terms, first[:_BEST], self._documents)
        if not brought_up:
            return (), []
        words = tuple(term.word for term, _ in brought_up)
        self._say(f"following up: {', '.join(words)}")
        every = [*terms, *(term for term, _ in brought_up)]
        ranked = rank(self._session, every, follow_up_weights(weights, brought_up), self._documents)
        total = sum(weights.of.values())
        related = [
            passage
            for passage in ranked
            if passage.terms.intersection(words)
            and sum(weights.of.get(word, 0) for word in passage.terms) >= _RELATED * total
        ]
        return words, related


def _parts(question: str) -> list[str]:
    found = [part.strip() for part in _PARTS.split(question) if part.strip()]
    return found if len(found) <= MAX_PARTS else [*found[: MAX_PARTS - 1], " ".join(found[MAX_PARTS - 1 :])]


def _in_turn(lists: Sequence[Sequence[Found]]) -> list[Found]:
    """Returns the best of each, then the second of each and so on, without repetition."""
    found = {(p.document, p.number): p for row in zip_longest(*lists) for p in row if p is not None}
    return list(found.values())


def _different(passages: Sequence[Found]) -> tuple[Found, ...]:
    """Returns each text once, though several documents may hold it."""
    found: dict[str, Found] = {}
    for passage in passages:
        found.setdefault(_plain(passage.text), passage)
    return tuple(found.values())


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()


def _plan(weights: Weights) -> str:
    ordered = sorted(weights.of, key=lambda word: -weights.of[word])
    known = [word for word in ordered if word not in weights.missing]
    text = f"looking through {weights.passages:,} passages for {', '.join(known[:8]) or 'nothing'}"
    return f"{text}; nowhere: {', '.join(weights.missing[:8])}" if weights.missing else text
