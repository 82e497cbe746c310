"""Headings of plain text: Markdown's, and lines underlined as in reStructuredText."""

from __future__ import annotations

import re

from worker.tools.passages.text import Heading

MAX_TITLE = 200
LONGEST_LINE = 1_000  # that may be a heading
_LINE = re.compile(r"[^\n]*\n?")
_ATX = re.compile(r" {0,3}(#{1,6})[ \t]+(.*?)[ \t#]*$")
_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_RULE = re.compile(r"([=\-~^*+#\"'`.:_])\1{2,}\s*$")
_LEVELS = {"=": 1, "-": 2}  # what Markdown says of underlines


def markdown_headings(text: str) -> list[Heading]:
    """Returns the headings of Markdown, outside of its code."""
    found: list[Heading] = []
    fence = ""
    before = ("", 0)
    for line, start in _lines(text):
        if mark := _FENCE.match(line):
            if not fence:
                fence = mark[1]
            elif mark[1].startswith(fence):
                fence = ""
        elif fence:
            pass
        elif atx := _ATX.match(line[:LONGEST_LINE]):
            found.append(Heading(start, len(atx[1]), _title(atx[2])))
        elif (rule := _RULE.match(line)) and rule[1] in _LEVELS and _may_be_title(before[0]):
            found.append(Heading(before[1], _LEVELS[rule[1]], _title(before[0])))
        before = (line, start)
    return [heading for heading in found if heading.title]


def underlined_headings(text: str) -> list[Heading]:
    """Returns the lines that are underlined in full; the first kind of underline is the highest level."""
    found: list[Heading] = []
    levels: dict[str, int] = {}
    before = ("", 0)
    for line, start in _lines(text):
        title = before[0].strip()
        if (rule := _RULE.match(line)) and _may_be_title(before[0]) and len(line.strip()) >= len(title) > 0:
            found.append(Heading(before[1], levels.setdefault(rule[1], len(levels) + 1), _title(title)))
        before = (line, start)
    return found


def _lines(text: str) -> list[tuple[str, int]]:
    return [(match[0].rstrip("\r\n"), match.start()) for match in _LINE.finditer(text) if match[0]]


def _may_be_title(line: str) -> bool:
    return any(char.isalnum() for char in line) and not line[0].isspace() and line[0] not in ">|-*+"


def _title(raw: str) -> str:
    return " ".join(raw.replace("\ufeff", "").split())[:MAX_TITLE].strip("*_` ")
