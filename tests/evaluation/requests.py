"""Requests in plain words, made from the columns and values of real tables, with what a plain computation gives."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from lanewise.demo import documents
from tests.evaluation.corpora import Corpus, dialects, language_reference, readmes
from tests.evaluation.questions import answerable, unanswerable

Row = dict[str, Any]
Figures = dict[Any, Any] | list[Any]  # by group; or in order
MAX_GROUPS = 1_000  # as many rows of a result are given back
PACKAGES = ("SQLAlchemy", "Flask", "celery", "redis", "pydantic", "rich", "hypothesis", "urllib3", "psutil", "click")


@dataclass(frozen=True)
class TableOf:
    """A real table, and what its columns are good for."""

    name: str
    content: bytes
    rows: tuple[Row, ...]
    noun: str
    categories: tuple[str, ...]
    number: str | None = None
    date: str | None = None


@dataclass(frozen=True)
class Collection:
    """What one user has: a table, and documents to read."""

    table: TableOf
    corpus: Corpus


@dataclass(frozen=True)
class Request:
    """A request, which agents shall get it, and the figures that the table's part has to give."""

    kind: str
    text: str
    agents: frozenset[str]
    figures: Figures | None = None


def collections() -> tuple[Collection, ...]:
    """All three; nothing in them was made for a test."""
    return (
        Collection(_unicode(), language_reference()),
        Collection(_certificates(), readmes()),
        Collection(_files(), dialects()),
    )


def requests(collection: Collection, others: Sequence[Collection], seed: int, each: int) -> list[Request]:
    """Returns `each` requests of every kind (`each` of every pattern for tables)."""
    chance = random.Random(f"{collection.table.name} {seed}")
    data = [made for make in _PATTERNS for made in _several(make, collection.table, chance, each)]
    asked = [q for q in answerable(collection.corpus, seed, each) if q.kind in ("heading", "definition", "condition")]
    found = [Request("research", question.text, frozenset({"research"})) for question in asked]
    both = [
        Request("both", f"{one.text.rstrip('.?')}, and {_lower(other.text)}", one.agents | other.agents, one.figures)
        for one, other in zip(chance.sample(data, min(2 * each, len(data))), found, strict=False)
    ]
    foreign = [
        Request("no table", made.text, frozenset())
        for other in others
        for make in _PATTERNS
        for made in _several(make, other.table, chance, 1)
        if not _shared_columns(other.table, collection.table)
    ]
    unknown = unanswerable(collection.corpus, [other.corpus for other in others], seed, 4 * each)
    absent = [Request("no text", q.text, frozenset()) for q in unknown if q.kind == "foreign"][: 2 * each]
    return [*data, *found, *both, *chance.sample(foreign, min(3 * each, len(foreign))), *absent]


def _several(
    make: Callable[[TableOf, random.Random], Request | None], table: TableOf, chance: random.Random, each: int
) -> Iterable[Request]:
    made = (make(table, chance) for _ in range(each))
    return {request.text: request for request in made if request}.values()


def _per(table: TableOf, chance: random.Random) -> Request:
    category = chance.choice([name for name in table.categories if len(set(_column(table, name))) < MAX_GROUPS])
    text = chance.choice((
        "How many {noun} are there per {category}?", "Count the {noun} by {category}.",
        "number of {noun} for each {category}", "Show me the number of {noun} in every {category}.",
        "{noun} per {category}", "What is the distribution of {noun} by {category}?",
    ))  # fmt: skip
    return _data(text.format(noun=table.noun, category=_say(category)), dict(Counter(_column(table, category))))


def _total(table: TableOf, chance: random.Random) -> Request | None:
    if table.number is None:
        return None
    category = chance.choice(table.categories)
    sums: dict[Any, list[Any]] = defaultdict(list)
    for row in table.rows:
        sums[row[category]].append(row[table.number])
    how = chance.choice(("total", "average", "maximum", "sum of the", "median"))
    works: dict[str, Callable[[list[Any]], Any]] = {
        "total": sum, "average": fmean, "maximum": max, "sum of the": sum, "median": median,
    }  # fmt: skip
    work = works[how]
    text = chance.choice(("What is the {how} {number} by {category}?", "{how} {number} per {category}",
                          "Give me the {how} {number} for each {category}."))  # fmt: skip
    return _data(
        text.format(how=how, number=table.number, category=_say(category)),
        {key: work([v for v in values if v is not None]) for key, values in sums.items()},
    )


def _most(table: TableOf, chance: random.Random) -> Request:
    category = chance.choice(table.categories)
    counted = Counter(value for value in _column(table, category))
    text = chance.choice(("Which {category} has the most {noun}?", "What is the {category} with the most {noun}?"))
    return _data(text.format(category=_say(category), noun=table.noun), [max(counted.values())])


def _top(table: TableOf, chance: random.Random) -> Request:
    category, count = chance.choice(table.categories), chance.randint(3, 7)
    best = [number for _, number in Counter(_column(table, category)).most_common(count)]
    text = chance.choice(("the {n} {category} with the most {noun}", "Top {n} {category} by number of {noun}",
                          "top {n} most frequent {category}"))  # fmt: skip
    return _data(text.format(n=count, category=_plural(_say(category)), noun=table.noun), best)


def _distinct(table: TableOf, chance: random.Random) -> Request:
    category = chance.choice(table.categories)
    word = chance.choice(("different", "distinct", "unique"))
    values = {value for value in _column(table, category) if value is not None}
    return _data(f"How many {word} {_plural(_say(category))} are there?", [len(values)])


def _with_value(table: TableOf, chance: random.Random) -> Request:
    category = chance.choice(table.categories)
    value = chance.choice(sorted({value for value in _column(table, category) if value}))
    text = chance.choice(("How many {noun} have the {category} {value}?", "Number of {noun} with {category} {value}",
                          'How many {noun} are there with "{value}" as {category}?'))  # fmt: skip
    return _data(
        text.format(noun=table.noun, category=_say(category), value=value), [_column(table, category).count(value)]
    )


def _share(table: TableOf, chance: random.Random) -> Request:
    category = chance.choice(table.categories)
    values = _column(table, category)
    value = chance.choice(sorted({value for value in values if value}))
    word = chance.choice(("share", "percentage", "proportion"))
    return _data(
        f"What {word} of {table.noun} has the {_say(category)} {value}?",
        [round(100 * values.count(value) / len(values), 2)],
    )


def _by_year(table: TableOf, chance: random.Random) -> Request | None:
    if table.date is None:
        return None
    text = chance.choice(("{noun} per year of {date}", "How many {noun} are there by year of {date}?",
                          "yearly number of {noun} by {date}"))  # fmt: skip
    years = Counter(int(day[:4]) for day in _column(table, table.date))
    return _data(text.format(noun=table.noun, date=_say(table.date)), dict(years))


def _since(table: TableOf, chance: random.Random) -> Request | None:
    if table.date is None:
        return None
    years = [int(day[:4]) for day in _column(table, table.date)]
    year = chance.choice(sorted(set(years))[1:-1])
    return _data(
        f"How many {table.noun} have a {_say(table.date)} before {year}?", [sum(found < year for found in years)]
    )


def _extreme(table: TableOf, chance: random.Random) -> Request | None:
    if table.number is None:
        return None
    values = [value for value in _column(table, table.number) if value is not None]
    word, work = chance.choice((("largest", max), ("maximum", max), ("smallest", min), ("average", fmean)))
    return _data(f"What is the {word} {table.number}?", [work(values)])


def _over(table: TableOf, chance: random.Random) -> Request | None:
    if table.number is None:
        return None
    bound = chance.choice((1_000, 5_000, 20_000))
    word = chance.choice(("over", "above", "of more than", "of at least"))
    values = [value for value in _column(table, table.number) if value is not None]
    count = sum(value >= bound if "least" in word else value > bound for value in values)
    return _data(f"How many {table.noun} have a {table.number} {word} {bound:,}?", [count])


_PATTERNS = (_per, _total, _most, _top, _distinct, _with_value, _share, _by_year, _since, _extreme, _over)


def _data(text: str, figures: Figures) -> Request:
    return Request("data", text, frozenset({"data"}), figures)


def _column(table: TableOf, name: str) -> list[Any]:
    return [row[name] for row in table.rows]


def _say(column: str) -> str:
    return column.replace("_", " ")


def _plural(word: str) -> str:
    return word[:-1] + "ies" if word.endswith("y") and word[-2:] != "ey" else word + "s"


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _shared_columns(one: TableOf, other: TableOf) -> bool:
    return bool(set(one.rows[0]) & set(other.rows[0]))


def _unicode() -> TableOf:
    document = documents.characters()
    rows = tuple(csv.DictReader(io.StringIO(document.content.decode())))
    return TableOf(document.name, document.content, rows, "characters", ("category", "kind", "first_word"))


def _certificates() -> TableOf:
    document = documents.certificates()
    rows = tuple(json.loads(line) for line in document.content.splitlines())
    return TableOf(document.name, document.content, rows, "certificates", ("country", "key"), None, "valid_until")


def _files() -> TableOf:
    """The files that installed packages brought, as their RECORDs list them."""
    rows: list[Row] = [
        {"package": name, "path": str(file), "type": file.suffix or "none", "size": file.size}
        for name in PACKAGES
        for file in importlib.metadata.files(name) or ()
        if file.size is not None and not str(file).startswith("..")
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return TableOf("files.csv", text.getvalue().encode(), tuple(rows), "files", ("package", "type"), "size")
