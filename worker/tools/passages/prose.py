"""Which stretches of a passage are prose: fenced code and HTML comments answer no question asked in words."""

from __future__ import annotations

import re
from collections.abc import Iterator

from worker.tools.passages.splitting import Span

_MARKS = ("```", "~~~", "<!--")
_CODE = re.compile(
    r"^[ \t]*(`{3,}|~{3,})[^\n]*(?:\n.*?)?(?:^[ \t]*\1[`~]*[ \t]*$|\Z)|<!--.*?(?:-->|\Z)", re.MULTILINE | re.DOTALL
)
_FENCE = re.compile(r"^[ \t]*(`{3}|~{3})[`~]*([^\n]*)$", re.MULTILINE)
_REMARK = re.compile(r"^[ \t]*(?:#+|//+) [^\n]+", re.MULTILINE)


def prose(text: str) -> list[Span]:
    """Returns the stretches of a passage that are prose, in order: what is outside of code, and the remarks in it.

    Passages may be cut within code. Such a one is known by its first fence, which closes what no fence has opened; code
    that a cut has left without any fence is taken for prose.
    """
    if not any(mark in text for mark in _MARKS):  # most have none, and a search for all of it takes its time
        return [(0, len(text))]
    return [span for span in _stretches(text) if text[slice(*span)].strip()]


def _stretches(text: str) -> Iterator[Span]:
    position = _end_of_code(text)
    yield from _remarks(text, 0, position)
    for code in _CODE.finditer(text, position):
        yield position, code.start()
        if code[1]:
            yield from _remarks(text, *code.span())
        position = code.end()
    yield position, len(text)


def _remarks(text: str, start: int, end: int) -> Iterator[Span]:
    return (remark.span() for remark in _REMARK.finditer(text, start, end))


def _end_of_code(text: str) -> int:
    """Returns where the code ends that a passage begins within, 0 if it does not."""
    fences = list(_FENCE.finditer(text))
    alike = [fence for fence in fences if fence[1] == fences[0][1]]
    if len(alike) % 2 == 0 or fences[0][2].strip():
        return 0
    before = text[: fences[0].start()].removesuffix("\n").rpartition("\n")[2]
    return fences[0].end() if before.strip() else 0  # a fence that opens has an empty line before it
