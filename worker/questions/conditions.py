"""Conditions in a clause: values that occur, truth values, bounds of numbers."""

from __future__ import annotations

from worker.questions.ask import Filter, Measure, Op
from worker.questions.reading import Mention, Reading, Value, is_key
from worker.questions.times import in_years, year_at
from worker.questions.vocabulary import AGGREGATES, ARTICLES, LEAST, MOST, ROW_WORDS
from worker.questions.words import number

_NOT = frozenset({"not", "without", "except", "excluding", "excl", "besides", "non"})
# May stand between a negation and its value, or between the values of a list.
_LINKS = ARTICLES - {"all", "any"} | {"in", "for", "from", "of", "is", "are", "at"}
_BOUNDS: tuple[tuple[str, Op], ...] = (
    ("no more than", "<="), ("no less than", ">="), ("no fewer than", ">="), ("more than", ">"), ("greater than", ">"),
    ("larger than", ">"), ("higher than", ">"), ("longer than", ">"), ("bigger than", ">"), ("at least", ">="),
    ("less than", "<"), ("fewer than", "<"), ("smaller than", "<"), ("lower than", "<"), ("shorter than", "<"),
    ("at most", "<="), ("up to", "<="), ("over", ">"), ("above", ">"), ("exceeding", ">"), ("under", "<"),
    ("below", "<"), ("exactly", "="), ("equal to", "="), ("equals", "="), (">=", ">="), ("<=", "<="), (">", ">"),
    ("<", "<"), ("=", "="),
)  # fmt: skip
_OF_SIZE = frozenset({"larger", "bigger", "smaller", "greater"})  # `files larger than 10`: no column is named
_HAVING = frozenset({"with", "having", "have", "has", "had", "whose", "where"})

Having = tuple[Op, int | float, Measure | None]
"""A bound of a figure; None for the number of rows."""


def value_filters(reading: Reading) -> list[Filter]:
    """Returns one condition for each column whose values stand in the clause; several values are alternatives.

    A negation holds for the whole list of values: `excluding Engineering and Support`.
    """
    wanted: dict[tuple[str, bool], list[str]] = {}
    last: Value | None = None
    negated = False
    for item in reading.values:
        listed = last is not None and _listed(reading, last, item)
        if last is not None and listed and last.column != item.column:
            reading.unclear.append(f"{last.value} and {item.value}")  # both at once, or either?
        between = reading.tokens[last.end : item.start] if last and not listed else []
        if last and any(token.text in ("and", "or") for token in between):
            reading.unclear.append(f"{last.value}, and what {item.value}")  # two questions in one
        negated = _negated(reading, item) or (negated and listed)
        chosen = wanted.setdefault((item.column, negated), [])
        if item.value not in chosen:
            chosen.append(item.value)
        last = item
    return [Filter(column, "not in" if no else "in", tuple(values)) for (column, no), values in wanted.items()]


def _negated(reading: Reading, item: Value) -> bool:
    """Takes the negation right before a value, as far as only its column and links stand between."""
    names = {p for m in reading.mentions if m.column.name == item.column for p in range(m.start, m.end)}
    place = item.start - 1
    while place >= 0 and (place in names or reading.tokens[place].text in _LINKS):
        place -= 1
    if place < 0 or reading.tokens[place].text not in _NOT:
        return False
    reading.take(place)
    return True


def _listed(reading: Reading, one: Value, other: Value) -> bool:
    """Tells whether two values are neighbours in a list; takes its `or`."""
    between = range(one.end, other.start)
    words = [reading.tokens[place].text for place in between]
    commas = reading.tokens[one.end - 1].raw.endswith(",")
    joined = [word for word in words if word not in _LINKS]
    if joined not in (["and"], ["or"]) and not (commas and not joined):
        return False
    reading.take(*(place for place in between if reading.tokens[place].text == "or"))
    return True


def truth_filters(reading: Reading, free: list[Mention]) -> list[Filter]:
    """Returns conditions of columns of truth values: `active people`, `people who are not active`."""
    filters = []
    for mention in free:
        if mention.column.type != "BOOLEAN" or not mention.whole:
            continue
        before = mention.start - 1
        no = before >= 0 and reading.tokens[before].text in ("not", "non")
        verb = before - no
        stated = verb >= 0 and reading.tokens[verb].text in ("is", "are", "was", "were")
        if stated or mention.end in reading.nouns or any(m.start == mention.end for m in free):
            filters.append(Filter(mention.column.name, "=", (False if no else True,)))  # noqa: SIM211 - for mypy
            reading.take(*range(mention.start - no, mention.end))
    return filters


def number_filters(reading: Reading) -> tuple[list[Filter], Having | None]:
    """Returns the bounds of numbers, and one that bounds a figure instead: `departments with more than 2 people`."""
    filters: list[Filter] = []
    having: Having | None = None
    while bound := _next_bound(reading):
        start, end, op, value = bound
        reading.take(*range(start, end))
        mention = _bounded(reading, start, end)
        found = _having(reading, start, end, mention)
        if found is not None and having is None:
            having = (op, value, None if found == "rows" else Measure(*found))  # type: ignore[misc]
        elif found is not None or (mention and _superlative_before(reading, mention.start)):
            reading.unclear.append(f"{op} {value}")
        elif column := mention.column.name if mention else _only_number(reading, start):
            filters.append(Filter(column, op, (value,)))
        else:
            reading.unclear.append(f"{op} {value}")
    return filters + _between(reading) + _equal(reading), having


def _having(reading: Reading, start: int, end: int, mention: Mention | None) -> object:
    """Returns what a bound of a figure is about: `rows`, or how and of what; None if it bounds a column.

    `with more than 2 people`, `with an average salary over 5`.
    """
    having = _word_before(reading, start) in _HAVING
    noun = end < len(reading.tokens) and (end in reading.nouns or reading.tokens[end].text in ROW_WORDS)
    if noun and mention is None:
        if having:
            reading.take(end)
        return "rows" if having else None
    if mention is None:
        return None
    if is_key(mention.column) and not mention.whole:  # `more than 2 orders` of a column order_id
        if not (having and mention.start >= end and reading.table.unique(mention.column.name)):
            reading.unclear.append(f"{reading.tokens[start].text} {reading.tokens[end - 1].text}")
        return "rows"
    if mention.start >= end:
        return None
    place = mention.start - 1
    while place >= 0 and reading.tokens[place].text in ARTICLES:
        place -= 1
    word = reading.tokens[place].text if place >= 0 else ""
    if word not in AGGREGATES:
        return None
    if _word_before(reading, place) not in _HAVING:
        reading.unclear.append(f"{reading.tokens[start].text} {reading.tokens[end - 1].text}")
    return (AGGREGATES[word], mention.column.name)


def _word_before(reading: Reading, place: int) -> str:
    place -= 1
    while place >= 0 and reading.tokens[place].text in ARTICLES:
        place -= 1
    return reading.tokens[place].text if place >= 0 else ""


def _superlative_before(reading: Reading, place: int) -> bool:
    return _word_before(reading, place) in (*MOST, *LEAST)


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


def _only_number(reading: Reading, start: int) -> str | None:
    """Of `files larger than 10` the only column of numbers."""
    numbers = [column.name for column in reading.table.columns if column.numeric]
    sized = reading.tokens[start].text in _OF_SIZE and start - 1 in reading.nouns
    return numbers[0] if sized and len(numbers) == 1 and _word_before(reading, start - 1) not in _HAVING else None


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
        years = year_at(reading, place + 1) is not None and year_at(reading, place + 3) is not None
        column = (mention.column.name, None) if mention else (in_years(reading) if years else None)
        if column:
            reading.take(*range(place, place + 4))
            found.append(Filter(column[0], "between", (low, high), column[1]))
    return found


def _equal(reading: Reading) -> list[Filter]:
    """A number right after a column of numbers: `status 404`, `a salary of 2,500`."""
    found = []
    for mention in reading.mentioned(numeric=True):
        link = reading.tokens[mention.end].text if mention.end < len(reading.tokens) else ""
        linked = link == "is" or (link == "of" and _word_before(reading, mention.start) in _HAVING)
        place = mention.end + linked
        value = number(reading.tokens[place]) if place < len(reading.tokens) and not reading.used[place] else None
        if value is None:
            continue
        reading.take(place)
        if year_at(reading, place) is not None and reading.temporal and not reading.phrase(place - 1, "is"):
            reading.unclear.append(f"{reading.tokens[place].text}, the {mention.column.name} or the year")
        found.append(Filter(mention.column.name, "=", (value,)))
    return found
