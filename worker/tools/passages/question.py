"""A question as the terms that a passage should hold."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

MAX_TERMS = 40
_WORD = re.compile(r"[^\W_]+(?:[._:/'’&+@#-]+[^\W_]+)*[+#]*", re.UNICODE)  # noqa: RUF001 - the apostrophe is meant
_PART = re.compile(r"[^\W_]+")
# What a question is asked with says nothing about what it asks for.
_FRAME = re.compile(
    r"according|please|tell|explain|describe|defin(?:e|ition)|mean(?:s|t|ing)?|says?|said|stated?s?|"
    r"mention(?:s|ed)?|documents?|documentation|texts?|passages?|files?|page|question|answers?|find|found|"
    r"show|give(?:n)?|list|know|want|like|much|many|exactly|kind|sort|things?|about|info(?:rmation)?|"
    r"details?|examples?|happen(?:s|ed)?|does|doing|done|used?|uses|using|ways?|works?|would|could|should|"
    r"might|must|shall|may|can|[a-z]+n['’]t",  # noqa: RUF001 - the apostrophe is meant
    re.IGNORECASE,
)
_QUOTED = re.compile(r"[\"“]([^\"“”]+)[\"”]")
_LEXEMES = sa.text("""
    SELECT number, tsvector_to_array(to_tsvector('english', word)) AS lexemes
    FROM unnest(CAST(:words AS text[])) WITH ORDINALITY AS given(word, number) ORDER BY number
""")


@dataclass(frozen=True)
class Term:
    """A word to look for.

    Args:
        word: as it was written.
        alternatives: each a set of lexemes that stand for the word together.
        is_name: written like a name: capitalised within a sentence, in capitals, with a digit.
    """

    word: str
    alternatives: tuple[tuple[str, ...], ...]
    is_name: bool = False

    @property
    def query(self) -> str:
        """As Postgres writes a tsquery."""
        return " | ".join(f"({' & '.join(map(_quoted, together))})" for together in self.alternatives)


def read_question(session: Session, question: str) -> list[Term]:
    """Returns the terms of a question, each once, at most 40; none if it has only words that say nothing."""
    found = list(words_of(question))[: 2 * MAX_TERMS]
    wanted = [(word, is_name) for word, is_name in found if is_name or not _FRAME.fullmatch(word)]
    return read_terms(session, wanted)[:MAX_TERMS]


def read_terms(session: Session, words: Iterable[tuple[str, bool]]) -> list[Term]:
    """Returns words, each with whether it is a name, as terms; without stop words and without repetition."""
    given = [(word, is_name, _PART.findall(word)) for word, is_name in words]
    flat = [text for word, _, parts in given for text in (word, *parts)]
    lexemes = iter([row.lexemes for row in session.execute(_LEXEMES, {"words": flat})])
    terms: dict[tuple[tuple[str, ...], ...], Term] = {}
    for word, is_name, parts in given:
        whole = tuple(next(lexemes))
        pieces = tuple(lexeme for _ in parts for lexeme in next(lexemes))
        alternatives = tuple(dict.fromkeys(filter(None, (whole, pieces))))
        if alternatives:
            known = terms.get(alternatives)
            terms[alternatives] = Term(word, alternatives, is_name or (known is not None and known.is_name))
    return list(terms.values())


def words_of(text: str) -> Iterable[tuple[str, bool]]:
    """Yields the words of a text, each with whether it is written like a name."""
    starts = True
    for match in _WORD.finditer(text):
        yield match[0], _is_name(match[0], starts=starts)
        starts = text[match.end() : match.end() + 2].strip()[:1] in {".", "?", "!", ""}


def phrases(question: str) -> list[str]:
    """Returns what stands in double quotes, in lower case and single spaces: it has to be there exactly so."""
    return [" ".join(match[1].split()).casefold() for match in _QUOTED.finditer(question)]


def _is_name(word: str, *, starts: bool) -> bool:
    if any(char.isdigit() for char in word) or word[1:] != word[1:].lower():
        return True
    return word[0].isupper() and not starts


def _quoted(lexeme: str) -> str:
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"
