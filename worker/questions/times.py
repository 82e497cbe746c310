"""Conditions on years, months and days."""

from __future__ import annotations

from calendar import monthrange
from datetime import date

from worker.questions.ask import Filter, Op, Unit
from worker.questions.reading import Reading
from worker.questions.words import number, same

_OPS: dict[str, Op] = {
    "since": ">=", "from": ">=", "after": ">", "before": "<", "until": "<=", "till": "<=", "through": "<=", "in": "=",
    "during": "=", "of": "=", "for": "=", "on": "=",
}  # fmt: skip
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_YEARS = range(1500, 2500)


def time_filters(reading: Reading) -> list[Filter]:
    """Returns the conditions on years, months and days."""
    filters: list[Filter] = []
    for place, token in enumerate(reading.tokens):
        if reading.used[place]:
            continue
        word = reading.tokens[place - 1].text if place else ""
        op = _OPS.get(word)
        day = _day(token.text)
        if token.text in MONTHS and reading.temporal and op:
            filters += _month(reading, place, op)
        elif day and reading.temporal and (word in ("between", "from") and _until(reading, place)):
            filters.append(Filter(reading.temporal[0].name, "between", (day, _until(reading, place)), date=True))
            reading.take(*range(place - 1, place + 3))
        elif day and reading.temporal and op:
            filters.append(Filter(reading.temporal[0].name, op, (day,), date=True))
            reading.take(place - 1, place)
        elif (year := year_at(reading, place)) is not None and (column := in_years(reading)):
            if word in MONTHS or word == "on":
                continue
            name, unit = column
            filters.append(Filter(name, op or "=", (year,), unit))
            reading.take(*([place - 1, place] if op else [place]))
    return _merge_years(reading, filters)


def year_at(reading: Reading, place: int) -> int | None:
    """Returns the year that stands at a place, else None."""
    value = number(reading.tokens[place])
    return value if isinstance(value, int) and value in _YEARS else None


def in_years(reading: Reading) -> tuple[str, Unit | None] | None:
    """Returns the column that holds years: a date's, or a column of whole numbers called so."""
    if reading.temporal:
        return reading.temporal[0].name, "year"
    named = [c for c in reading.table.columns if c.integral and same(c.name.lower(), "year")]
    return (named[0].name, None) if named else None


def _month(reading: Reading, place: int, op: Op) -> list[Filter]:
    """`in march` is that month of any year; `after March 2021` begins with April."""
    name, month = reading.temporal[0].name, MONTHS.index(reading.tokens[place].text) + 1
    year = year_at(reading, place + 1) if place + 1 < len(reading.tokens) else None
    if year is None:
        if op != "=" or (place + 1 < len(reading.tokens) and number(reading.tokens[place + 1]) is not None):
            return []
        reading.take(place - 1, place)
        return [Filter(name, "=", (month,), "month")]
    reading.take(place - 1, place, place + 1)
    first, last = date(year, month, 1).isoformat(), date(year, month, monthrange(year, month)[1]).isoformat()
    if op == "=":
        return [Filter(name, "between", (first, last), date=True)]
    return [Filter(name, op, (first if op in (">=", "<") else last,), date=True)]


def _day(text: str) -> str:
    try:
        return date.fromisoformat(text).isoformat() if "-" in text else ""
    except ValueError:
        return ""


def _until(reading: Reading, place: int) -> str:
    """Returns the second day of `2024-01-03 to 2024-02-01`; empty if there is none."""
    if place + 2 >= len(reading.tokens) or reading.tokens[place + 1].text not in ("and", "to"):
        return ""
    return _day(reading.tokens[place + 2].text)


def _merge_years(reading: Reading, filters: list[Filter]) -> list[Filter]:
    """`in 2023 and 2024` is either year, not both."""
    equal = [item for item in filters if item.op == "="]
    merged = [item for item in filters if item.op != "="]
    for item in equal:
        alike = [other for other in equal if (other.column, other.unit) == (item.column, item.unit)]
        if item is alike[0]:
            values = tuple(value for other in alike for value in other.values)
            merged.append(Filter(item.column, "in", values, item.unit, item.date) if len(values) > 1 else item)
    if len({(item.column, item.unit, item.date) for item in merged}) < len(merged) or (equal and len(merged) > 1):
        _check_range(reading, merged)
    return merged


def _check_range(reading: Reading, filters: list[Filter]) -> None:
    """`before 2021 and after 2022` may mean either; `in March and in 2025` both."""
    low = [str(item.values[0]) for item in filters if item.op in (">", ">=")]
    high = [str(item.values[0]) for item in filters if item.op in ("<", "<=")]
    if len(low) > 1 or len(high) > 1 or (low and high and low[0][:4] > high[0][:4]):
        reading.unclear.append("two times at once")
