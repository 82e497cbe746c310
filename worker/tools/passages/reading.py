"""From a document's bytes to its text, by what kind of file it is."""

from __future__ import annotations

from typing import Literal

from worker.tools.passages.html import read_html
from worker.tools.passages.markup import markdown_headings, underlined_headings
from worker.tools.passages.pdf import read_pdf
from worker.tools.passages.text import DocumentError, Text, decode

Kind = Literal["text", "markdown", "html", "pdf", "table"]
_ENDINGS: dict[str, Kind] = {
    "md": "markdown", "markdown": "markdown", "html": "html", "htm": "html", "xhtml": "html", "pdf": "pdf",
    "txt": "text", "text": "text", "rst": "text",
    "csv": "table", "tsv": "table", "parquet": "table", "jsonl": "table", "ndjson": "table",
}  # fmt: skip
_TYPES: dict[str, Kind] = {
    "text/markdown": "markdown", "text/html": "html", "application/xhtml+xml": "html", "application/pdf": "pdf",
    "text/csv": "table", "text/tab-separated-values": "table", "application/x-ndjson": "table",
    "application/vnd.apache.parquet": "table",
}  # fmt: skip


def kind_of(name: str, content_type: str) -> Kind:
    """Returns what a document is by its name's ending, else by its content type; text if neither tells."""
    ending = name.rsplit(".", 1)[-1].lower() if "." in name else ""
    return _ENDINGS.get(ending) or _TYPES.get(content_type.split(";", maxsplit=1)[0].strip().lower(), "text")


def read(name: str, content_type: str, content: bytes) -> Text:
    """Returns the text of a document.

    Raises:
        DocumentError: it has none that can be read; the message says why.
    """
    kind: Kind = "pdf" if content.startswith(b"%PDF-") else kind_of(name, content_type)
    match kind:
        case "table":
            raise DocumentError("is a table: ask the data agent about it")
        case "pdf":
            return read_pdf(content)
        case "html":
            return read_html(content, content_type)
    text, notes = decode(content, content_type)
    headings = markdown_headings(text) if kind == "markdown" else underlined_headings(text)
    return Text(text, tuple(headings), (), tuple(notes))
