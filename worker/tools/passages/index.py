"""The passages of a user's documents in Postgres: a cache of the documents' text, made when it is first needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from worker.tools.passages.reading import read
from worker.tools.passages.splitting import split
from worker.tools.passages.text import DocumentError, Text

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    OpenSession = Callable[[], AbstractContextManager[Session]]

VERSION = "2"  # of reading and splitting: another one has every document indexed again
MAX_PASSAGES = 5_000  # of a document
_BATCH = 500
_TRIES = 5
# Number 0 is no passage: it says of which content, by which version and with what to note the others were made.
_LIST = sa.text("""
    SELECT d.name, d.content_type, d.size, d.sha256,
        p.sha256 IS NOT DISTINCT FROM d.sha256 AND p.heading = :version AS is_indexed, coalesce(p.text, '') AS notes
    FROM documents d LEFT JOIN document_passages p ON p.document = d.name AND p.number = 0 AND p.user_id = d.user_id
    WHERE CAST(:names AS text[]) IS NULL OR d.name = ANY(:names)
    ORDER BY d.name LIMIT :limit
""")
_CONTENT = sa.text("SELECT user_id, content, content_type, sha256 FROM documents WHERE name = :name")
_CLEAR = sa.text("SELECT clear_own_passages(:document)")
_INSERT = sa.text("""
    INSERT INTO document_passages (user_id, document, sha256, number, heading, page, start_char, end_char, text)
    SELECT :user_id, :document, :sha256, made.* FROM unnest(CAST(:number AS int[]), CAST(:heading AS text[]),
        CAST(:page AS int[]), CAST(:start_char AS int[]), CAST(:end_char AS int[]), CAST(:text AS text[])) AS made
""")


@dataclass(frozen=True)
class Listed:
    """A document, and what is known of its passages.

    Args:
        is_indexed: whether there are passages of its present content.
        notes: what the reader of them has to know, a line each; or why there are none.
    """

    name: str
    content_type: str
    size: int
    sha256: str
    is_indexed: bool
    notes: str


class PassageIndex:
    """Makes passages of documents.

    Args:
        open_session: of the run's role, so that Postgres shows one user's rows only.
    """

    def __init__(self, open_session: OpenSession) -> None:
        self._open_session = open_session

    def documents(self, names: Sequence[str] | None, limit: int) -> list[Listed]:
        """Returns the user's documents by name, at most `limit`; None stands for all."""
        values = {"names": list(names) if names is not None else None, "limit": limit, "version": VERSION}
        with self._open_session() as session:
            return [Listed(**row._mapping) for row in session.execute(_LIST, values)]  # noqa: SLF001 - its public name

    def make(self, name: str) -> str:
        """Makes the passages of a document's present content.

        Runs may do this at the same time: number 0 is there once, so only one of them gets its passages in, and the
        others look again.

        Returns:
            what there is to note; empty if all went well.

        Raises:
            UnavailableError: Postgres is away.
        """
        for _ in range(_TRIES):
            listed = self.documents([name], 1)
            if listed and listed[0].is_indexed:
                return listed[0].notes
            with self._open_session() as session:
                row = session.execute(_CONTENT, {"name": name}).one_or_none()
            if row is None:
                return "was deleted meanwhile"
            passages, notes = _passages(name, row.content_type, bytes(row.content))
            try:
                self._store({"user_id": row.user_id, "document": name, "sha256": row.sha256}, passages, notes)
            except IntegrityError:  # another run was faster, or the document is gone
                continue
            return notes
        return "was read by many runs at once and changed all the time: what it says now may be missing"

    def _store(self, common: dict[str, str], passages: list[dict[str, Any]], notes: str) -> None:
        """Replaces the passages of a document in one transaction."""
        record = {"number": 0, "heading": VERSION, "page": None, "start_char": 0, "end_char": 0, "text": notes}
        rows = iter([record, *passages])
        with self._open_session() as session:
            session.execute(_CLEAR, common)
            while batch := list(islice(rows, _BATCH)):
                columns = {column: [row[column] for row in batch] for column in record}
                session.execute(_INSERT, common | columns)


def _passages(name: str, content_type: str, content: bytes) -> tuple[list[dict[str, Any]], str]:
    try:
        text = read(name, content_type, content)
    except DocumentError as error:
        return [], str(error)
    pieces = list(islice(split(text), MAX_PASSAGES + 1))
    notes = list(text.notes)
    if len(pieces) > MAX_PASSAGES:
        del pieces[MAX_PASSAGES:]
        notes.append(f"only its first {MAX_PASSAGES:,} passages ({pieces[-1].end:,} characters) are searched")
    if not pieces:
        notes.append("is empty")
    return [_row(text, piece) for piece in pieces], "\n".join(notes)


def _row(text: Text, piece: Any) -> dict[str, Any]:
    return {
        "number": piece.number,
        "heading": piece.heading,
        "page": piece.page,
        "start_char": piece.start,
        "end_char": piece.end,
        "text": text.content[piece.start : piece.end],
    }
