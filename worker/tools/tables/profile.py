"""What is in each column: how full, how varied, between which bounds, and what is most frequent."""

# ruff: noqa: S608 - the names in this SQL are quoted, the rest is our own
from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from worker.tools.tables.database import Table, Tables
from worker.tools.tables.values import Column, quote

EXACT_DISTINCT_ROWS = 1_000_000
TOP_VALUES = 5
_MAX_TOP_DISTINCT = 100_000
_MAX_VALUE_CHARS = 48


def profile(tables: Tables, table: Table) -> Iterator[dict[str, Any]]:
    """Yields the profile of one column after the other.

    Keys: `column`, `type`, `nulls` (NaN is one), `distinct` (an estimate above a million rows, then
    `distinct_estimated` is true), `min` and `max` of what has an order, `mean` of numbers, and `top`: up to five
    `{"value", "count"}`, the most frequent first, unless every value is different.
    """
    for column in table.columns:
        yield _profile(tables, table, column)


def _profile(tables: Tables, table: Table, column: Column) -> dict[str, Any]:
    relation = quote(table.name)
    name = f"nullif({quote(column.name)}, 'nan')" if column.floating else quote(column.name)
    exact = table.rows <= EXACT_DISTINCT_ROWS
    distinct = f"count(DISTINCT {name})" if exact else f"approx_count_distinct({name})"
    selected = [f"count(*) - count({name})", distinct]
    if not column.nested:
        selected += [f"min({name})", f"max({name})"]
    if column.numeric:
        selected += [f"avg({name})"]
    values = tables.rows(f"(SELECT {', '.join(selected)} FROM {relation})", max_chars=_MAX_VALUE_CHARS)[0]
    nulls, found = values[0], min(values[1], table.rows - values[0])
    entry = {"column": column.name, "type": column.short_type, "nulls": nulls, "distinct": found}
    entry |= dict(zip(("min", "max", "mean"), values[2:], strict=False))
    if isinstance(entry.get("mean"), float):
        entry["mean"] = float(f"{entry['mean']:.12g}")  # the digits after that are the summing's, not the data's
    if not exact:
        entry["distinct_estimated"] = True
    if not column.nested and 0 < found <= _MAX_TOP_DISTINCT and found < table.rows - nulls:
        top = tables.rows(
            f"(SELECT {name}, count(*) FROM {relation} WHERE {name} IS NOT NULL "
            f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {TOP_VALUES})",
            max_chars=_MAX_VALUE_CHARS,
        )
        entry["top"] = [{"value": value, "count": count} for value, count in top]
    return entry
