"""Which passages answer a question: BM25 over what Postgres finds, with the nearness of the words."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from worker.tools.passages.prose import prose
from worker.tools.passages.question import Term

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    Places = dict[str, list[tuple[int, bool]]]  # by word, where it stands, and whether in the heading

CANDIDATES = 300
ENOUGH = 0.7  # of a question's weight that has to stand together in a passage that answers it
_K1 = 1.2
_B = 0.3
_HEADING = 1.5  # what a word in a heading counts as, in occurrences
_NEAR = 4  # words apart that still belong together
_NEAR_SHARE = 0.5
_WINDOW = 40  # words, within which an answer stands together
_COMMON = 100  # passages added in thought, so that in a short document a word on every page still counts
_UNKNOWN_NAME = 2.0  # what a name that no passage holds counts more than another such word
_CODE_SHARE = 0.3  # what words in code and comments count beside those in prose
_SCOPE = "number > 0 AND document = ANY(:documents)"
_PLACES = """(SELECT json_object_agg(lexeme, json_build_object('p', positions, 'w', weights))
    FROM unnest({words}) WHERE lexeme = ANY(:lexemes)) AS places"""
_PROSE = sa.text(f"""
    SELECT {_PLACES.format(words="setweight(to_tsvector('english', heading), 'B') || to_tsvector('english', prose)")}
    FROM unnest(CAST(:headings AS text[]), CAST(:prose AS text[])) WITH ORDINALITY AS given(heading, prose, number)
    ORDER BY number
""")  # noqa: S608 - constants only


@dataclass(frozen=True)
class Found:
    """A passage that holds terms of the question.

    Args:
        score: higher is better; only comparable within one question.
        coverage: 0..1, the share of the question, by weight, that stands together in the passage.
        terms: the words of the question that it holds.
    """

    document: str
    number: int
    sha256: str
    heading: str
    page: int | None
    start: int
    end: int
    text: str
    score: float
    coverage: float
    terms: frozenset[str]


@dataclass(frozen=True)
class Weights:
    """What the documents know of a question's terms.

    Args:
        passages: how many were looked at.
        length: of a passage on average, in lexemes.
        of: weight by word: the rarer, the higher; highest for a word that no passage holds.
        hits: passages that hold it, by word.
    """

    passages: int
    length: float
    of: dict[str, float]
    hits: dict[str, int]

    @property
    def missing(self) -> list[str]:
        """The words that no passage holds."""
        return [word for word, count in self.hits.items() if not count]


def weigh(session: Session, terms: Sequence[Term], documents: Sequence[str]) -> Weights:
    """Counts in how many passages each term is, in one pass over them."""
    counts = ", ".join(f"count(*) FILTER (WHERE words @@ CAST(:q{i} AS tsquery)) AS n{i}" for i in range(len(terms)))
    statement = sa.text(
        f"SELECT count(*) AS passages, coalesce(avg(length(words)), 1) AS mean{', ' if counts else ''}{counts} "  # noqa: S608 - numbers only
        f"FROM document_passages WHERE {_SCOPE}"
    )
    values: dict[str, Any] = {f"q{i}": term.query for i, term in enumerate(terms)}
    row = session.execute(statement, {**values, "documents": list(documents)}).one()._mapping  # noqa: SLF001 - public
    total = int(row["passages"])
    hits = {term.word: int(row[f"n{i}"]) for i, term in enumerate(terms)}
    weights = {word: math.log(1 + (total + _COMMON - count + 0.5) / (count + 0.5)) for word, count in hits.items()}
    for term in terms:
        if term.is_name and not hits[term.word]:
            weights[term.word] *= _UNKNOWN_NAME
    return Weights(total, float(row["mean"]), weights, hits)


def rank(session: Session, terms: Sequence[Term], weights: Weights, documents: Sequence[str]) -> list[Found]:
    """Returns the passages that hold any of the terms, best first, at most `CANDIDATES`."""
    known = [term for term in terms if term.word not in weights.missing]
    if not known:
        return []
    hits = " + ".join(f"(words @@ CAST(:q{i} AS tsquery))::int * CAST(:w{i} AS float8)" for i in range(len(known)))
    statement = sa.text(f"""
        WITH hit AS MATERIALIZED (
            SELECT document, number, {hits} AS weight, ts_rank(words, CAST(:any AS tsquery), 1) AS closeness
            FROM document_passages WHERE {_SCOPE} AND words @@ CAST(:any AS tsquery)
            ORDER BY weight DESC, closeness DESC, document, number LIMIT {CANDIDATES}
        )
        SELECT p.document, p.number, p.sha256, p.heading, p.page, p.start_char, p.end_char, p.text,
            length(p.words) AS size, {_PLACES.format(words="p.words")}
        FROM hit JOIN document_passages p USING (document, number)
    """)  # noqa: S608 - numbers only
    values: dict[str, Any] = {f"q{i}": term.query for i, term in enumerate(known)}
    values |= {f"w{i}": weights.of[term.word] for i, term in enumerate(known)}
    values["any"] = " | ".join(term.query for term in known)
    values["lexemes"] = sorted({lexeme for term in known for group in term.alternatives for lexeme in group})
    rows = session.execute(statement, {**values, "documents": list(documents)}).all()
    in_prose = _places_in_prose(session, rows, values["lexemes"])
    found = [_judge(row, in_prose.get(index), terms, weights) for index, row in enumerate(rows)]
    return sorted(found, key=lambda passage: (-passage.score, passage.document, passage.number))


def _places_in_prose(session: Session, rows: Sequence[Any], lexemes: Sequence[str]) -> dict[int, dict[str, Any]]:
    """Returns where lexemes stand in the prose of rows that have code or comments, too; by the row's index."""
    cut = {index: prose(row.text) for index, row in enumerate(rows)}
    mixed = {index: spans for index, spans in cut.items() if spans != [(0, len(rows[index].text))]}
    values = {
        "headings": [rows[index].heading for index in mixed],
        "prose": ["\n".join(rows[index].text[slice(*span)] for span in spans) for index, spans in mixed.items()],
        "lexemes": lexemes,
    }
    found = session.execute(_PROSE, values).scalars() if mixed else ()
    return {index: places or {} for index, places in zip(mixed, found, strict=True)}


def _judge(row: Any, in_prose: dict[str, Any] | None, terms: Sequence[Term], weights: Weights) -> Found:
    held = _held(terms, row.places or {})
    score = _score(held, row.size, terms, weights)
    if in_prose is not None:
        score = _CODE_SHARE * score + (1 - _CODE_SHARE) * _score(_held(terms, in_prose), row.size, terms, weights)
    coverage = _together(held, weights) / sum(weights.of[term.word] for term in terms)
    return Found(
        row.document, row.number, row.sha256, row.heading, row.page, row.start_char, row.end_char, row.text,
        score, coverage, frozenset(held),
    )  # fmt: skip


def _held(terms: Sequence[Term], places: dict[str, Any]) -> Places:
    at = {term.word: _positions(term, places) for term in terms}
    return {word: positions for word, positions in at.items() if positions}


def _score(held: Places, size: int, terms: Sequence[Term], weights: Weights) -> float:
    norm = _K1 * (1 - _B + _B * size / weights.length)
    score = 0.0
    for word, positions in held.items():
        frequency = sum(_HEADING if is_heading else 1.0 for _, is_heading in positions)
        score += weights.of[word] * frequency * (_K1 + 1) / (frequency + norm)
    return score + _nearness([term.word for term in terms], held, weights)


def _positions(term: Term, places: dict[str, Any]) -> list[tuple[int, bool]]:
    """Returns where the term stands, and whether in the heading; of lexemes that stand together, the rarest's."""
    best: list[tuple[int, bool]] = []
    for group in term.alternatives:
        if all(lexeme in places for lexeme in group):
            each = [
                list(zip(places[lexeme]["p"], (w == "B" for w in places[lexeme]["w"]), strict=True)) for lexeme in group
            ]
            rarest = min(each, key=len)
            best = max(best, rarest, key=len)
    return best


def _together(held: Places, weights: Weights) -> float:
    """Returns the most that stands together: in the heading, and within one stretch of the text."""
    heading = {word for word, places in held.items() if any(is_heading for _, is_heading in places)}
    text = sorted((place, word) for word, places in held.items() for place, is_heading in places if not is_heading)
    best = sum(weights.of[word] for word in heading)
    for index, (start, _) in enumerate(text):
        within = {word for place, word in text[index:] if place - start < _WINDOW} | heading
        best = max(best, sum(weights.of[word] for word in within))
    return best


def _nearness(words: Sequence[str], held: Places, weights: Weights) -> float:
    """Rewards neighbours of the question that are neighbours in the passage."""
    bonus = 0.0
    for first, second in itertools.pairwise(words):
        if first not in held or second not in held:
            continue
        apart = min(abs(b - a) for a, _ in held[first] for b, _ in held[second])
        if apart <= _NEAR:
            bonus += _NEAR_SHARE * (weights.of[first] + weights.of[second]) / max(apart, 1)
    return bonus
