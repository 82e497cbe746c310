"""What a user's bytes are (CSV, JSON Lines, Parquet), how DuckDB shall read them, and what is wrong if it cannot."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal, get_args

from worker.tools.tables.errors import TableError

Format = Literal["csv", "jsonl", "parquet"]
FORMATS: tuple[str, ...] = get_args(Format)
MAX_COLUMNS = 256
MAX_NAME_CHARS = 128
MAX_LINE_BYTES = 2_000_000  # of a CSV

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
_CONTENT_TYPES: dict[str, Format] = {
    "text/csv": "csv",
    "text/tab-separated-values": "csv",
    "application/jsonl": "jsonl",
    "application/x-ndjson": "jsonl",
    "application/json": "jsonl",
    "application/vnd.apache.parquet": "parquet",
}
_QUOTED = re.compile(r'"[^"]*(?:"|$)')


@dataclass(frozen=True)
class Source:
    """The bytes of one table; `name` is how the user calls it."""

    name: str
    content: bytes
    format: Format

    @property
    def stem(self) -> str:
        """The name without folders and suffix."""
        return PurePath(self.name).stem


def format_of(name: str, content_type: str) -> Format:
    """Returns the format that a document's name or content type says.

    Raises:
        TableError: neither says one.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    found = _SUFFIXES.get(PurePath(name).suffix.lower()) or _CONTENT_TYPES.get(media_type)
    if found is None:
        raise TableError(
            f"{name!r} ({content_type}) is no table that can be read: its name should end in "
            f"{', '.join(_SUFFIXES)}, or its content type be one of {', '.join(_CONTENT_TYPES)}"
        )
    return found


def reader(source: Source, path: str) -> str:
    """Returns the DuckDB table function that reads a source from `path`.

    The first line of a CSV names its columns and decides the delimiter, always: guessing from the data turns tables
    of text round.

    Raises:
        TableError: what can be seen to be wrong before reading.
    """
    if not source.content.strip():
        raise TableError(f"{source.name} is empty")
    if source.format == "parquet":
        return f"read_parquet('{path}')"
    text = _text(source)
    if source.format == "jsonl":
        layout = _check_json(source.name, text)
        return (
            f"read_json('{path}', format = '{layout}', records = true, sample_size = -1, "
            f"map_inference_threshold = {MAX_COLUMNS + 1}, maximum_object_size = {len(source.content) + 1})"
        )
    delimiter, width = _header(text)
    check_width(source.name, width)
    return (
        f"read_csv('{path}', header = true, delim = '{delimiter}', quote = '\"', escape = '\"', comment = '', "
        f"skip = 0, sample_size = -1, max_line_size = {MAX_LINE_BYTES})"
    )


def check_width(name: str, width: int) -> None:
    """Raises `TableError` for more columns than the limit."""
    if width > MAX_COLUMNS:
        raise TableError(f"{name} has {width:,} columns; the limit is {MAX_COLUMNS}")


def explain(source: Source) -> str | None:
    """Returns what is wrong with a CSV that DuckDB refused, with the line number, or None if it is not plain."""
    if source.format != "csv":
        return None
    text = _text(source)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=_header(text)[0], strict=True)
    try:
        width = len(next(rows, []))
        for row in rows:
            if row and len(row) != width:
                return f"line {rows.line_num} has {_count(len(row), 'value')}, the first line {_count(width, 'column')}"
    except csv.Error as error:
        return f"line {rows.line_num}: {error}" if "field limit" not in str(error) else _explain_length(source.content)
    return _explain_length(source.content)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _explain_length(content: bytes) -> str | None:
    for number, line in enumerate(content.splitlines(), 1):
        if len(line) > MAX_LINE_BYTES:
            return f"line {number} has {len(line):,} bytes; the limit is {MAX_LINE_BYTES:,}"
    return None


def _text(source: Source) -> str:
    try:
        return source.content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.content.count(b"\n", 0, error.start) + 1
        raise TableError(
            f"{source.name} is not UTF-8 text: byte 0x{source.content[error.start]:02x} in line {line}"
        ) from None


def _header(text: str) -> tuple[str, int]:
    first_line = _QUOTED.sub("", text[: 1024 * 1024]).lstrip("\r\n").splitlines() or [""]
    delimiter = max(",;\t|", key=first_line[0].count)
    return delimiter, first_line[0].count(delimiter) + 1


def _check_json(name: str, text: str) -> str:
    """Returns the layout of a JSON text, `newline_delimited` or `array`, after reading it once in Python.

    It knows the line of an error better than DuckDB, which also takes minutes over very many different fields.
    """
    if text.lstrip().startswith("["):
        layout, where, records = "array", "item", iter(_json(name, "the list", text))
    else:
        layout, where = "newline_delimited", "line"
        records = (_json(name, f"line {n}", line) if line.strip() else {} for n, line in enumerate(text.split("\n"), 1))
    fields: set[str] = set()
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise TableError(f"{name}: {where} {number} is {_kind(record)}, not an object")
        fields.update(record)
        check_width(name, len(fields))
    if not fields - {""}:
        raise TableError(f"{name}: no object has a field")
    return layout


def _json(name: str, where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        problem = error.msg.removesuffix(" at")
        raise TableError(f"{name}: {where} is not JSON: {problem} at character {error.pos + 1}") from None
    except RecursionError:
        raise TableError(f"{name}: {where} is nested too deeply") from None


def _kind(value: Any) -> str:
    kinds = {list: "a list", dict: "an object", str: "a text", bool: "a truth value", type(None): "null"}
    return kinds.get(type(value), "a number")
