"""`Library`: what a user has: which documents are tables, with which columns, and what the others talk about."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import sqlalchemy as sa

from worker.questions.words import Token, root
from worker.tools.tables import TableError, format_of

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

MAX_DOCUMENTS = 200
MAX_TEXT_BYTES = 512 * 1024  # read of each document of prose
MAX_TEXTS_BYTES = 8 * 1024 * 1024  # and of all together
HEADER_BYTES = 64 * 1024
NEAR_CHARS = 600  # about a passage
_UNREADABLE = (".pdf", ".docx", ".zip")  # not text as they lie; the `research` agent may read them
_LIST = """
    SELECT name, content_type, size, substring(content FROM 1 FOR :header) AS head FROM documents
    WHERE CAST(:names AS text[]) IS NULL OR name = ANY(CAST(:names AS text[])) ORDER BY name LIMIT :count
"""
_TEXT = "SELECT substring(content FROM 1 FOR :size) FROM documents WHERE name = :name"


@dataclass(frozen=True)
class TableHead:
    """A document that is a table, and its columns as far as its first line tells them."""

    name: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Prose:
    """A document to read; `text` is None if it is not text as it lies, or too much was read already."""

    name: str
    text: str | None = field(repr=False)

    def near(self, roots: Sequence[str]) -> set[str]:
        """Returns those of the words, by their roots, that stand together in the best passage."""
        wanted = "|".join(re.escape(word) for word in sorted(roots, key=len, reverse=True))
        if self.text is None or not wanted:
            return set()
        places = [(m.start(), m[1].lower()) for m in re.finditer(rf"(?<!\w)({wanted})", self.text, re.IGNORECASE)]
        best: set[str] = set()
        first = 0
        for last, (end, _) in enumerate(places):
            while end - places[first][0] > NEAR_CHARS:
                first += 1
            if last - first >= len(best):
                best = max(best, {word for _, word in places[first : last + 1]}, key=len)
        return best


@dataclass(frozen=True)
class Library:
    """A user's documents, by what they are good for."""

    tables: tuple[TableHead, ...] = ()
    prose: tuple[Prose, ...] = ()

    @classmethod
    def of(cls, session: Session, names: Sequence[str] | None = None) -> Library:
        """Reads the user's documents, those of these names or all (the first 200).

        Args:
            session: sees this user's rows only.
            names: None for all.
        """
        given = {"names": list(names) if names else None, "header": HEADER_BYTES, "count": MAX_DOCUMENTS}
        rows = session.execute(sa.text(_LIST), given).all()
        budget = MAX_TEXTS_BYTES
        tables: list[TableHead] = []
        prose: list[Prose] = []
        for row in rows:
            if (columns := header(row.name, row.content_type, bytes(row.head))) is not None:
                tables.append(TableHead(row.name, columns))
                continue
            size = min(row.size, MAX_TEXT_BYTES, budget)
            readable = size > 0 and not row.name.lower().endswith(_UNREADABLE)
            content = session.scalar(sa.text(_TEXT), {"size": size, "name": row.name}) if readable else None
            budget -= size if readable else 0
            prose.append(Prose(row.name, None if content is None else bytes(content).decode("utf-8", "replace")))
        return cls(tuple(tables), tuple(prose))

    def has(self, word: str) -> bool:
        """Tells whether a word stands anywhere, as far as can be seen."""
        begin = re.compile(rf"(?<!\w){re.escape(root(word))}", re.IGNORECASE)
        return any(prose.text is None or begin.search(prose.text) for prose in self.prose)

    def best_passage(self, words: Sequence[Token]) -> tuple[str, set[str]]:
        """Returns the document in which most of the words stand together, and which these are; empty if none does."""
        roots = {word.text: root(word.text) for word in words}
        found = [(prose.name, prose.near(list(roots.values()))) for prose in self.prose]
        name, best = max(found, key=lambda item: len(item[1]), default=("", set()))
        return name if best else "", {word for word, stem in roots.items() if stem in best}


def header(name: str, content_type: str, head: bytes) -> tuple[str, ...] | None:
    """Returns the columns that the beginning of a document names, None if it is no table; empty: they do not show."""
    try:
        kind = format_of(name, content_type)
    except TableError:
        return None
    if kind == "parquet":
        return ()
    line = head.decode("utf-8-sig", "replace").lstrip("\r\n").partition("\n")[0]
    if kind == "csv":
        delimiter = max(",;\t|", key=re.sub(r'"[^"]*(?:"|$)', "", line).count)
        return tuple(next(csv.reader(io.StringIO(line), delimiter=delimiter), ()))
    try:
        record = json.loads(line.strip().lstrip("[").rstrip(","))
    except (ValueError, RecursionError):
        return ()
    return tuple(record) if isinstance(record, dict) else ()
