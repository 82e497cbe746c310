"""Cuts a text into passages: at headings and pages always, else between paragraphs, else between sentences."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from worker.tools.passages.text import Heading, Text

AIM = 800  # characters that paragraphs are put together to
MAX = 1_000  # of a passage
_BLANK = re.compile(r"\n[ \t\r\f\v]*\n\s*")
_EDGE = "\ufeff"  # a byte order mark counts as space
# A sentence ends at its mark, unless that belongs to an initial or an abbreviation; a list's item begins a new one.
_SENTENCE_END = re.compile(
    r"(?<![.!?])(?<![\s(.][A-Za-z])(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)(?<!\betc)(?<!\bDr)(?<!\bMr)(?<!\bMrs)(?<!\bNo)"
    r"[.!?]++[\"'”’)\]*_`]*+\s++(?=[\"'“‘(\[*_`]*[A-Z0-9])"  # noqa: RUF001 - these quotes are meant
    r"|[。！？]\s*"  # noqa: RUF001 - and these marks
    r"|\n\s*+(?=(?:[-*+•]|\d{1,3}[.)])\s)"
    r"|\n[ \t\r]*\n\s*"
)

Span = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """A passage of a text.

    Args:
        number: from 1, in the order of the text.
        start: its first character's offset.
        end: the offset behind its last one.
        heading: the titles of the sections that it lies in, highest first.
        page: from 1, None if the text has no pages.
    """

    number: int
    start: int
    end: int
    heading: str
    page: int | None


def split(text: Text) -> Iterator[Piece]:
    """Yields the passages; together they hold every character that is not space, in order."""
    numbers = itertools.count(1)
    path: list[Heading] = []
    headings = iter([*text.headings, None])
    following = next(headings)
    for start, end in _sections(text):
        while following is not None and following.start <= start:
            path = [heading for heading in path if heading.level < following.level] + [following]
            following = next(headings)
        page = bisect_right(text.pages, start) or None
        title = " > ".join(heading.title for heading in path)
        for first, last in _packed(_blocks(text.content, start, end)):
            yield Piece(next(numbers), first, last, title, page)


def sentences(content: str, start: int, end: int) -> Iterator[Span]:
    """Yields the sentences of a part of a text, without the space between them."""
    return _between(_SENTENCE_END, content, start, end)


def _sections(text: Text) -> Iterator[Span]:
    cuts = sorted({0, *(heading.start for heading in text.headings), *text.pages, len(text.content)})
    return itertools.pairwise(cuts)


def _blocks(content: str, start: int, end: int) -> Iterator[Span]:
    """Yields what must not be torn apart: paragraphs, of long ones sentences, of long ones pieces."""
    for first, last in _between(_BLANK, content, start, end):
        if last - first <= MAX:
            yield first, last
            continue
        for begin, stop in sentences(content, first, last):
            yield from _cut(content, begin, stop)


def _cut(content: str, start: int, end: int) -> Iterator[Span]:
    while end - start > MAX:
        space = max(
            content.rfind(" ", start + AIM // 2, start + MAX), content.rfind("\n", start + AIM // 2, start + MAX)
        )
        stop = space if space > start else start + MAX
        yield from _trimmed(content, start, stop)
        start = stop
    yield from _trimmed(content, start, end)


def _packed(blocks: Iterable[Span]) -> Iterator[Span]:
    """Puts neighbours together up to `AIM`."""
    held: Span | None = None
    for block in blocks:
        if held is not None and block[1] - held[0] <= AIM:
            held = (held[0], block[1])
            continue
        if held is not None:
            yield held
        held = block
    if held is not None:
        yield held


def _between(edge: re.Pattern[str], content: str, start: int, end: int) -> Iterator[Span]:
    position = start
    for match in edge.finditer(content, start, end):
        yield from _trimmed(content, position, match.end())
        position = match.end()
    yield from _trimmed(content, position, end)


def _trimmed(content: str, start: int, end: int) -> Iterator[Span]:
    while start < end and (content[start].isspace() or content[start] == _EDGE):
        start += 1
    while end > start and (content[end - 1].isspace() or content[end - 1] == _EDGE):
        end -= 1
    if start < end:
        yield start, end
