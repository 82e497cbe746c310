"""Rows of DuckDB as JSON values.

The engine itself writes each row as JSON: its Python conversion needs pytz for time zones, and it turns dates that
Python cannot hold into something else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

MAX_CELL_CHARS = 2_000
MAX_NESTING = 10  # of one cell; a run's output may nest 20 levels in all
_MAX_TYPE_CHARS = 100
_SAFE_INTEGER = 2**53
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_NUMBERS = frozenset({*_INTEGERS, *(f"U{name}" for name in _INTEGERS), "BIGNUM", "FLOAT", "DOUBLE"})


@dataclass(frozen=True)
class Column:
    """A column's name and its DuckDB type."""

    name: str
    type: str

    @property
    def short_type(self) -> str:
        """The type, cut to 100 characters (a struct's lists all its fields)."""
        return self.type if len(self.type) <= _MAX_TYPE_CHARS else self.type[: _MAX_TYPE_CHARS - 1] + "…"

    @property
    def numeric(self) -> bool:
        """Whether it holds numbers."""
        return self.type in _NUMBERS or self.type.startswith("DECIMAL(")

    @property
    def integral(self) -> bool:
        """Whether it holds whole numbers."""
        return self.numeric and not self.floating and not self.type.startswith("DECIMAL(")

    @property
    def floating(self) -> bool:
        """Whether it holds binary fractions, which may be NaN or infinite."""
        return self.type in {"FLOAT", "DOUBLE"}

    @property
    def temporal(self) -> bool:
        """Whether it holds dates or times of a calendar."""
        return self.type.startswith(("DATE", "TIMESTAMP"))

    @property
    def short(self) -> bool:
        """Whether no value of this type is long."""
        return self.temporal or self.type == "BOOLEAN" or (self.numeric and self.type != "BIGNUM")

    @property
    def categorical(self) -> bool:
        """Whether it holds words or truth values."""
        return self.type in {"VARCHAR", "BOOLEAN"} or self.type.startswith("ENUM(")

    @property
    def nested(self) -> bool:
        """Whether its values are lists, structs, maps or JSON."""
        return self.type.endswith("]") or self.type.startswith(("STRUCT", "MAP", "UNION", "JSON", "VARIANT", "TUPLE"))


def quote(name: str) -> str:
    """Returns a name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def select_json(columns: Sequence[Column], max_chars: int = MAX_CELL_CHARS) -> str:
    """Returns the SQL expression of one row as a JSON array; cells longer than `max_chars` are cut and end in `…`."""
    # Glued as text: json_array() would read the cells again, as doubles.
    return f"'[' || concat_ws(',', {', '.join(_cell(column, max_chars) for column in columns)}) || ']'"


def _cell(column: Column, max_chars: int) -> str:
    name = quote(column.name)
    json_text = f"coalesce(to_json({name})::VARCHAR, 'null')"
    if column.short:
        return json_text
    cut = f"to_json(left({name}::VARCHAR, {max_chars}) || '…')::VARCHAR"
    return f"CASE WHEN length({name}::VARCHAR) > {max_chars} THEN {cut} ELSE {json_text} END"


def to_values(row: str, columns: Sequence[Column]) -> list[Any]:
    """Returns the JSON values of one row.

    What JSON cannot carry is null (NaN, infinities); what a double cannot hold exactly is text (64-bit numbers, long
    decimals); times are ISO 8601; very deep values are JSON text.
    """
    cells = json.loads(row, parse_int=_integer, parse_float=_decimal, parse_constant=lambda _: None)
    return [_tidy(cell, column) for cell, column in zip(cells, columns, strict=True)]


def _integer(text: str) -> int | str:
    value = int(text) if len(text) <= len(str(_SAFE_INTEGER)) + 1 else _SAFE_INTEGER + 1
    return value if abs(value) <= _SAFE_INTEGER else text


def _decimal(text: str) -> float | str | None:
    value = float(text)
    if not math.isfinite(value):
        return None
    return value if Decimal(repr(value)) == Decimal(text) else text


def _tidy(cell: Any, column: Column) -> Any:
    if isinstance(cell, str) and column.type.startswith("TIMESTAMP"):
        return cell.replace(" ", "T", 1).replace("+00", "+00:00")
    return json.dumps(cell, ensure_ascii=False) if _depth(cell) > MAX_NESTING else cell


def _depth(value: Any) -> int:
    if isinstance(value, dict):
        value = list(value.values())
    return 1 + max(map(_depth, value), default=0) if isinstance(value, list) else 0
