"""What was read out of a document: its text, and where sections and pages begin."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass

MAX_CHARACTERS = 4_000_000
# What claims to be text is binary beyond these shares of its characters. Colours of a terminal (ESC) are no sign of it.
_NUL_SHARE = 0.01
_CONTROL_SHARE = 0.05
_FEW = 8  # control characters, which any text may have
_CONTROL = re.compile(r"[\x01-\x08\x0e-\x1f\x7f-\x9f]")
# Codecs of Python's that turn bytes into text and are no charsets. The first takes minutes for a few megabytes.
_NO_CHARSETS = frozenset({"punycode", "idna", "unicode-escape", "raw-unicode-escape"})
_CHARSET = re.compile(r"charset=[\"']?([\w.:-]{1,40})", re.IGNORECASE)
_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32", b"\x00\x00\xfe\xff": "utf-32", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8",
}  # fmt: skip


class DocumentError(ValueError):
    """A document that cannot be read as text; the message says why."""


@dataclass(frozen=True)
class Heading:
    """Where a section begins.

    Args:
        start: offset in the text.
        level: 0 for the title of the whole, 1 for the highest heading and so on.
        title: without its markup.
    """

    start: int
    level: int
    title: str


@dataclass(frozen=True)
class Text:
    """The text of a document.

    Args:
        content: what offsets count in; of plain text and Markdown the decoded source itself.
        headings: in the order of the text.
        pages: where each page begins, empty if there are none.
        notes: what a reader has to know: what was cut, skipped, or guessed.
    """

    content: str
    headings: tuple[Heading, ...] = ()
    pages: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


def decode(content: bytes, declared: str, limit: int = MAX_CHARACTERS) -> tuple[str, list[str]]:
    """Returns the text of bytes and notes on it.

    A byte order mark decides, then the declared charset, then UTF-8, then Windows-1252. In UTF-8 the mark stays in the
    text, so that offsets are those of `content.decode()`. Control characters become spaces, NUL becomes U+FFFD.

    Args:
        content: of a document.
        declared: what may name a charset: a content type, the beginning of an HTML page.
        limit: of characters; what is beyond is cut off, with a note.

    Raises:
        DocumentError: these are no characters.
    """
    notes: list[str] = []
    text = _decoded(content, declared, notes)
    if _is_binary(text):
        raise DocumentError("is binary, not text")
    if len(text) > limit:
        notes.append(f"only the first {limit:,} of {len(text):,} characters were read")
        text = text[:limit]
    # Postgres stores no NUL, and no terminal should be handed the others; one character for another keeps the offsets.
    return _CONTROL.sub(" ", text).replace("\0", "\ufffd"), notes


def _is_binary(text: str) -> bool:
    controls = sum(char != "\x1b" for char in _CONTROL.findall(text))
    return text.count("\0") > len(text) * _NUL_SHARE or controls > max(_FEW, len(text) * _CONTROL_SHARE)


def _decoded(content: bytes, declared: str, notes: list[str]) -> str:
    for mark, encoding in _MARKS.items():
        if content.startswith(mark):
            return content.decode(encoding, "replace")
    named = _CHARSET.search(declared)
    for encoding in (*((named[1],) if named else ()), "utf-8"):
        try:
            if codecs.lookup(encoding).name in _NO_CHARSETS:
                continue
            text = content.decode(encoding)
            text.encode()  # some codecs let lone surrogates through, which are no characters
        except (LookupError, UnicodeError, ValueError):
            continue
        return text
    notes.append("it is not UTF-8 and names no charset that fits: read as Windows-1252")
    return content.decode("cp1252", "replace")
