"""Pieces of Markdown out of other people's text, which never becomes markup itself."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import quote

MAX_CELL_CHARS = 120
# An underscore between two letters or digits is no markup, and stays readable in names.
_MARKUP = re.compile(r"([\\`*\[\]<>#|~$]|(?<![^\W_])_|_(?![^\W_])|&(?=[\w#]+;))")
_LIST = re.compile(r"^(?=[-+=]|\d+[.)])(\d*)")  # at the beginning of a line
_LINK = re.compile(r"\b(https?|ftp|mailto|www)([:.])", re.IGNORECASE)
_CONTROLS = dict.fromkeys((*range(32), *range(127, 160), 8232, 8233), " ")
_BIDI = dict.fromkeys((*range(8234, 8239), *range(8294, 8298), 8206, 8207))  # turn text round


def text(value: object) -> str:
    """Returns one line that Markdown shows as it is written."""
    line = " ".join(str(value).translate(_CONTROLS).translate(_BIDI).split())
    escaped = _LIST.sub(r"\1\\", _MARKUP.sub(r"\\\1", line))
    # No link of its own making: what recognises bare addresses does not see one with a backslash in it.
    return _LINK.sub(r"\1\\\2", escaped)


def cut(value: object, width: int) -> str:
    """Returns at most `width` characters of one line, `text` is still to be applied."""
    line = " ".join(str(value).split())
    return line if len(line) <= width else line[: width - 1].rstrip() + "…"


def cell(value: Any) -> str:
    """Returns a value of a table: empty cells say so, whole numbers from 10,000 have separators."""
    if value is None:
        return "(none)"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return number(value)
    return text(cut(value, MAX_CELL_CHARS))


def number(value: float) -> str:
    """Returns a number as it is: up to 15 digits, with separators from 10,000 on."""
    if isinstance(value, int):
        return f"{value:,}" if abs(value) >= 10_000 else str(value)  # noqa: PLR2004 - years have four digits
    return f"{value:,.15g}" if abs(value) >= 10_000 else f"{value:.15g}"  # noqa: PLR2004 - the same


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a table; columns of numbers only stand to the right."""
    body = [list(row) for row in rows]
    numeric = [
        any(row[place] is not None for row in body)
        and all(isinstance(row[place], int | float | None) and not isinstance(row[place], bool) for row in body)
        for place in range(len(columns))
    ]
    lines = [_row(map(cell, columns)), _row("---:" if right else "---" for right in numeric)]
    return "\n".join([*lines, *(_row(map(cell, row)) for row in body)])


def quotation(value: str, mark: str) -> str:
    """Returns a block quotation with its citation mark."""
    return f"> {text(value)} {mark}"


def fenced(value: str, language: str) -> str:
    """Returns a block of code that nothing in it can end."""
    ticks = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", value)), default=0))
    return f"{ticks}{language}\n{value.translate(_BIDI).strip()}\n{ticks}"


def link(label: str, *path: str | int) -> str:
    """Returns a link to a path of the API; each part of it is encoded."""
    return f"[{text(label)}]({url(*path)})"


def url(*path: str | int) -> str:
    """Returns a path of the API; each part is encoded, so that none can leave its place."""
    return "/" + "/".join(quote(str(part), safe="") for part in path)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
