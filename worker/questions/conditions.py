"""Conditions in a clause: values that occur, bounds of numbers, times."""

from __future__ import annotations

from datetime import date

from worker.questions.ask import Filter, Op, Unit
from worker.questions.reading import Mention, Reading
from worker.questions.words import number, same

_NOT = frozenset({"not", "without", "except", "excluding", "excl", "besides", "non"})
_BOUNDS: tuple[tuple[str, Op], ...] = (
    ("more than", ">"), ("greater than", ">"), ("larger than", ">"), ("higher than", ">"), ("longer than", ">"),
    ("bigger than", ">"), ("at least", ">="), ("no less than", ">="), ("less than", "<"), ("fewer than", "<"),
    ("smaller than", "<"), ("lower than", "<"), ("shorter than", "<"), ("at most", "<="), ("up to", "<="),
    ("no more than", "<="), ("over", ">"), ("above", ">"), ("exceeding", ">"), ("under", "<"), ("below", "<"),
    ("exactly", "="), ("equal to", "="), ("equals", "="), (">=", ">="), ("<=", "<="), (">", ">"), ("<", "<"),
    ("=", "="),
)  # fmt: skip
_SINCE: tuple[tuple[str, Op], ...] = (
    ("since", ">="), ("from", ">="), ("after", ">"), ("before", "<"), ("until", "<="), ("till", "<="),
    ("through", "<="), ("in", "="), ("during", "="), ("of", "="), ("for", "="),
)  # fmt: skip
MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip
_HAVING = frozenset({"with", "having", "have", "has", "had"})
_YEARS = range(1500, 2500)

Having = tuple[Op, int | float]


def value_filters(reading: Reading) -> list[Filter]:
    """Returns one condition for each column whose values stand in the clause; several values are alternatives."""
    wanted: dict[tuple[str, bool], list[str]] = {}
    for item in reading.values:
        before = range(max(0, item.start - 2), item.start)
        negated = [place for place in before if reading.tokens[place].text in _NOT]
        reading.take(*negated)
        chosen = wanted.setdefault((item.column, bool(negated)), [])
        if item.value not in chosen:
            chosen.append(item.value)
    return [Filter(column, "not in" if no else "in", tuple(values)) for (column, no), values in wanted.items()]


def number_filters(reading: Reading) -> tuple[list[Filter], Having | None]:
    """Returns the bounds of numbers, and one that is not of a column: it bounds the figure itself."""
    filters: list[Filter] = []
    having: Having | None = None
    while bound := _next_bound(reading):
        start, end, op, value = bound
        reading.take(*range(start, end))
        column = _bounded_name(reading, start, end)
        if column:
            filters.append(Filter(column, op, (value,)))
        elif start and reading.tokens[start - 1].text in _HAVING:
            having = (op, value)
        else:
            reading.unclear.append(f"{op} {value}")
    return filters + _between(reading) + _equal(reading), having


def time_filters(reading: Reading) -> list[Filter]:
    """Returns the conditions on years, months and days."""
    filters: list[Filter] = []
    for place, token in enumerate(reading.tokens):
        if reading.used[place]:
            continue
        op = _SINCE_OPS.get(reading.tokens[place - 1].text) if place else None
        if token.text in MONTHS and reading.temporal and op == "=":
            filters.append(Filter(reading.temporal[0].name, "=", (MONTHS.index(token.text) + 1,), "month"))
        elif op and (day := _day(token.text)) and reading.temporal:
            filters.append(Filter(reading.temporal[0].name, op, (day,), date=True))
        elif (year := _year(reading, place)) is not None and (column := _of_years(reading)):
            name, unit = column
            filters.append(Filter(name, op or "=", (year,), unit))
        else:
            continue
        reading.take(*([place - 1, place] if op else [place]))
    return _merge_years(filters)


_SINCE_OPS = dict(_SINCE)


def _next_bound(reading: Reading) -> tuple[int, int, Op, int | float] | None:
    for place in range(len(reading.tokens)):
        for phrase, op in _BOUNDS:
            end = place + len(phrase.split())
            if reading.phrase(place, *phrase.split()) and end < len(reading.tokens) and not reading.used[end]:
                value = number(reading.tokens[end])
                if value is not None and not reading.used[place]:
                    return place, end + 1, op, value
        value = number(reading.tokens[place])
        if value is not None and not reading.used[place] and reading.phrase(place + 1, "or"):
            for word, op in (("more", ">="), ("above", ">="), ("less", "<="), ("fewer", "<="), ("below", "<=")):
                if reading.phrase(place + 2, word):
                    return place, place + 3, op, value
    return None


def _bounded_name(reading: Reading, start: int, end: int) -> str | None:
    """Returns the column that a bound is about; of `files larger than 10` the only column of numbers."""
    if mention := _bounded(reading, start, end):
        return mention.column.name
    numbers = [column.name for column in reading.table.columns if column.numeric]
    return numbers[0] if start - 1 in reading.nouns and len(numbers) == 1 else None


def _bounded(reading: Reading, start: int, end: int) -> Mention | None:
    """Returns the column of numbers that a bound is about: the one after it, else the one right before it."""
    if after := reading.mention_at(end, 2):
        return after if after.column.numeric else None
    if end < len(reading.tokens) and end in reading.nouns:
        return None
    before = [
        mention
        for mention in reading.mentioned(numeric=True)
        if mention.end <= start and all(token.stop for token in reading.tokens[mention.end : start])
    ]
    return before[-1] if before else None


def _between(reading: Reading) -> list[Filter]:
    found = []
    for place in range(len(reading.tokens) - 3):
        low, high = number(reading.tokens[place + 1]), number(reading.tokens[place + 3])
        if reading.tokens[place].text not in ("between", "from") or low is None or high is None:
            continue
        if reading.tokens[place + 2].text not in ("and", "to") or any(reading.used[place + 1 : place + 4 : 2]):
            continue
        mention = _bounded(reading, place, place + 4)
        years = _year(reading, place + 1) is not None and _year(reading, place + 3) is not None
        column = (mention.column.name, None) if mention else (_of_years(reading) if years else None)
        if column:
            reading.take(*range(place, place + 4))
            found.append(Filter(column[0], "between", (low, high), column[1]))
    return found


def _equal(reading: Reading) -> list[Filter]:
    """A number right after a column of numbers: `status 404`."""
    found = []
    for mention in reading.mentioned(numeric=True):
        place = mention.end + (1 if mention.end < len(reading.tokens) and reading.phrase(mention.end, "is") else 0)
        if place < len(reading.tokens) and not reading.used[place]:
            value = number(reading.tokens[place])
            if value is not None:
                reading.take(place)
                found.append(Filter(mention.column.name, "=", (value,)))
    return found


def _year(reading: Reading, place: int) -> int | None:
    value = number(reading.tokens[place])
    return value if isinstance(value, int) and value in _YEARS else None


def _of_years(reading: Reading) -> tuple[str, Unit | None] | None:
    """Returns the column that holds years: a date's, or a column of whole numbers called so."""
    if reading.temporal:
        return reading.temporal[0].name, "year"
    named = [c for c in reading.table.columns if c.integral and same(c.name.lower(), "year")]
    return (named[0].name, None) if named else None


def _day(text: str) -> str | None:
    try:
        return date.fromisoformat(text).isoformat()
    except ValueError:
        return None


def _merge_years(filters: list[Filter]) -> list[Filter]:
    """`in 2023 and 2024` is either year, not both."""
    equal = [item for item in filters if item.op == "="]
    merged = [item for item in filters if item.op != "="]
    for item in equal:
        alike = [other for other in equal if (other.column, other.unit) == (item.column, item.unit)]
        if item is alike[0]:
            values = tuple(value for other in alike for value in other.values)
            merged.append(Filter(item.column, "in", values, item.unit, item.date) if len(values) > 1 else item)
    return merged
