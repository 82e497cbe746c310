"""From a clause to an `Ask`: figures, groups, order and limit, by the verbs and nouns that tables are asked with."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import get_args

from worker.questions.ask import Ask, Group, How, Measure, Unit
from worker.questions.conditions import number_filters, time_filters, value_filters
from worker.questions.reading import Mention, Reading
from worker.questions.words import name_words, number, singular
from worker.tools.tables import Column

_AGGREGATES: dict[str, How] = {
    "total": "sum", "sum": "sum", "overall": "sum", "altogether": "sum", "combined": "sum", "how much": "sum",
    "average": "avg", "avg": "avg", "mean": "avg", "median": "median",
    "minimum": "min", "min": "min", "maximum": "max", "max": "max",
}  # fmt: skip
_MOST = ("most", "highest", "largest", "biggest", "greatest", "top", "longest", "latest", "newest")
_LEAST = (
    "least", "fewest", "lowest", "smallest", "bottom", "shortest", "earliest", "oldest",
)  # fmt: skip
_OF_TIME = frozenset({"latest", "newest", "earliest", "oldest"})
_COUNTS = (
    "how many", "number of", "numbers of", "count of", "counts of", "count", "counts", "frequency of", "frequency",
    "frequencies of", "amount of",
)  # fmt: skip
_DISTINCT = ("different", "distinct", "unique")
_SHARES = (
    "share of", "share", "percentage of", "percentage", "percent of", "percent", "proportion of", "proportion",
    "fraction of", "what part of",
)  # fmt: skip
_PER = (
    "grouped by", "broken down by", "split by", "for each", "for every", "in each", "in every", "of each", "of every",
    "by", "per", "each", "every", "across", "among",
)  # fmt: skip
_SORT = ("sorted by", "sort by", "ordered by", "order by", "ranked by", "rank by", "in order of")
_UP = ("ascending", "increasing", "alphabetically", "smallest first", "lowest first", "oldest first")
_DOWN = ("descending", "decreasing", "largest first", "highest first", "newest first")
_SPREAD = ("distribution of", "breakdown of", "breakdown by", "distribution by", "breakdown", "distribution")
_OVER_TIME = ("over time", "over the years", "trend of", "trend in", "trends in", "trend", "trends", "development of")
_UNITS: dict[str, Unit] = {
    **{f"{unit}{end}": unit for unit in get_args(Unit) for end in ("", "s")},
    "monthly": "month", "yearly": "year", "annual": "year", "annually": "year", "weekly": "week", "daily": "day",
    "quarterly": "quarter",
}  # fmt: skip
_LISTS = ("list", "show", "display", "which", "what", "who", "where", "when", "print", "look up", "give")
_CHARTS = ("plot", "chart", "graph", "draw", "visualise", "visualize", "diagram", "bar", "line", "histogram")
_NO_SQL = frozenset({
    "forecast", "predict", "prediction", "cluster", "clustering", "anomaly", "anomalies", "outlier", "outliers",
    "regression", "extrapolate",
})  # fmt: skip
# What a word after one of these says is a part of the question that must not be passed over.
_BINDING = frozenset({
    "by", "per", "each", "every", "in", "for", "from", "of", "at", "with", "where", "across", "among", "to",
    "named", "called", "whose", "than", "and", "or", "not", "without",
})  # fmt: skip
_ARTICLES = frozenset({
    "the", "a", "an", "all", "any", "our", "my", "their", "its",
})  # fmt: skip
MAX_LIMIT = 100
_DAYS_OF_YEARS, _DAYS_OF_MONTHS = 3 * 366, 60


@dataclass(frozen=True)
class Parsed:
    """What became of a clause.

    Attributes:
        ask: None if the words give none.
        coverage: the share of the words that were understood, 0 to 1.
        unplaced: the others.
        notes: what was chosen where the words left a choice.
        named: whether the clause names the table.
        hits: how many of its columns and values are mentioned.
    """

    ask: Ask | None
    coverage: float
    unplaced: tuple[str, ...]
    notes: tuple[str, ...]
    named: bool
    hits: int


def parse(reading: Reading, *, elliptic: bool = False) -> Parsed:
    """Returns what a clause asks of its table.

    Args:
        reading: of the clause.
        elliptic: the clause goes on from another (`and by month?`), so what it leaves out is not to be guessed.
    """
    draft = _Draft(reading, elliptic=elliptic)
    ask = draft.ask()
    if missing := draft.missing():
        reading.notes.append(missing)
        ask = None
    return Parsed(
        ask, reading.coverage, tuple(reading.unplaced), tuple(reading.notes), reading.named,
        len({m.column.name for m in reading.mentions}) + len({v.value for v in reading.values}),
    )  # fmt: skip


class _Draft:
    """Builds an `Ask` from a reading, part by part; each part takes the words that it explains."""

    def __init__(self, reading: Reading, *, elliptic: bool) -> None:
        self.r = reading
        self.elliptic = elliptic
        self.entities: set[int] = set()  # what the user calls a row
        self.measures: list[Measure] = []
        self.groups: list[Group] = []
        self.columns: list[str] = []
        self.order: str | None = None
        self.descending = True
        self.limit: int | None = None
        self.free = list(reading.mentions)  # columns whose part in the sentence is still open

    def ask(self) -> Ask | None:
        """Returns the ask, None if no part was found."""
        share = self._take(_SHARES)
        if share is not None:
            self._noun(share)
        self.filters = value_filters(self.r)
        numbers, having = number_filters(self.r)  # before what takes the `most` of `at most 4`
        superlative = self._superlative()
        self._sort()
        self._group()
        self.filters += numbers + time_filters(self.r)
        self.free = [m for m in self.free if m.column.name not in {f.column for f in numbers}]
        self._aggregates()
        self._counts()
        if superlative is not None:
            self._ranking(superlative)
        if share is not None:
            self._share()
        self._rest()
        if having and self.free and not self.groups:  # `countries with more than 5 certificates`
            self.groups.append(Group(self._use(self.free[0])))
            self.measures = self.measures or [Measure("count", noun=self._row_noun())]
        if having and not (self.measures and self.groups):
            self.r.notes.append(f"I could not tell what is {having[0]} {having[1]}")
            having = None
        return self._finish(having)

    def missing(self) -> str | None:
        """Returns what the table lacks for an answer to just this question, None if nothing."""
        r = self.r
        for place in r.content:
            word = r.tokens[place].text
            if word in _NO_SQL:
                return f"I know no way to work out {word!r}"
            if r.used[place] or place in self.entities:
                continue
            if word in _AGGREGATES or word in _MOST or word in _LEAST:
                return f"I found no column of numbers for {word!r}"
            before = place - 1
            while before >= 0 and r.tokens[before].text in _ARTICLES:
                before -= 1
            if before >= 0 and r.tokens[before].text in _BINDING:
                return f"{r.table.document} has no column or value for {r.tokens[place].raw.strip('.,;:!?')!r}"
        return None

    def _take(self, phrases: tuple[str, ...]) -> int | None:
        """Takes the first of these phrases; returns where what follows it begins."""
        found = self.r.find(phrases)
        if found is None:
            return None
        self.r.take(*range(*found))
        return found[1]

    def _use(self, mention: Mention) -> str:
        self.free = [item for item in self.free if item is not mention]
        return mention.column.name

    def _superlative(self) -> int | None:
        """Takes `top 5`, `the most`, `the 3 lowest`; returns where what they are about begins."""
        found = self.r.find((*_MOST, *_LEAST))
        if found is None:
            return None
        start, end = found
        word = self.r.tokens[start].text
        self.descending = word in _MOST
        self.r.take(start)
        self.word = word
        for place in (start - 1, end):
            value = number(self.r.tokens[place]) if 0 <= place < len(self.r.tokens) else None
            if isinstance(value, int) and 0 < value <= MAX_LIMIT and not self.r.used[place]:
                self.limit = value
                self.r.take(place)
                end = max(end, place + 1)
        while end < len(self.r.tokens) and self.r.tokens[end].text in ("most", "frequent", "common", "often"):
            self.r.take(end)
            end += 1
        self.superlative_at = start
        return end

    def _sort(self) -> None:
        end = self._take(_SORT)
        if end is not None and (mention := self.r.mention_at(end, 2)):
            self.order, self.descending = self._use(mention), mention.column.numeric
        if self._take(_UP) is not None:
            self.descending = False
        elif self._take(_DOWN) is not None:
            self.descending = True

    def _group(self) -> None:
        while (found := self.r.find(_PER)) is not None:
            start, end = found
            self.r.take(*range(start, end))
            if not self._group_at(end):
                self.r.used[start:end] = [False] * (end - start)  # not a grouping after all: leave it to others
                break
            while end < len(self.r.tokens) and self.r.tokens[end].text != "and":
                end += 1
            if end + 1 < len(self.r.tokens) and self.r.tokens[end].text == "and":
                self._group_at(end + 1, reach=1)
        for place, token in enumerate(self.r.tokens):
            if not self.r.used[place] and token.text.endswith("ly") and token.text in _UNITS:
                self._group_by_time(_UNITS[token.text], place)
        if self.r.temporal and self._take(_OVER_TIME) is not None and not self.groups:
            self._group_by_time(self._fitting_unit(), None)
        if (spread := self._take(_SPREAD)) is not None:
            self._group_at(spread, reach=3)
            self._noun(spread)

    def _group_at(self, place: int, reach: int = 3) -> bool:
        mention = self.r.mention_at(place, reach)
        if mention and mention in self.free:
            column = mention.column
            if (column.numeric and getattr(self, "word", None)) or column.floating or column.nested:
                return False  # `top 5 cities by people` is an order
            self.groups.append(Group(self._use(mention), self._unit_of(column) if column.temporal else None))
            return True
        for step in range(min(reach, len(self.r.tokens) - place)):
            token = self.r.tokens[place + step]
            if token.text in _UNITS and self.r.temporal:
                return self._group_by_time(_UNITS[token.text], place + step)
        return False

    def _unit_of(self, column: Column) -> Unit | None:
        """`yearly … by valid until`; a time of day is grouped by its day."""
        for place, token in enumerate(self.r.tokens):
            if token.text.endswith("ly") and token.text in _UNITS and not self.r.used[place]:
                self.r.take(place)
                return _UNITS[token.text]
        if column.type.startswith("TIMESTAMP"):
            self.r.notes.append(f"by the day of {column.name}")
            return "day"
        return None

    def _group_by_time(self, unit: Unit, place: int | None) -> bool:
        column = self.r.temporal[0] if self.r.temporal else None
        if column is None:
            return False
        if place is not None:
            self.r.take(place)
        self.free = [item for item in self.free if item.column != column]
        if len([c for c in self.r.table.columns if c.temporal]) > 1:
            self.r.notes.append(f"by the {unit} of {column.name}")
        self.groups.append(Group(column.name, unit))
        return True

    def _fitting_unit(self) -> Unit:
        low, high = self.r.table.bounds(self.r.temporal[0].name)
        try:
            days = (date.fromisoformat(high[:10]) - date.fromisoformat(low[:10])).days
        except ValueError:
            return "year"
        return "year" if days > _DAYS_OF_YEARS else "month" if days > _DAYS_OF_MONTHS else "day"

    def _aggregates(self) -> None:
        while (found := self.r.find(_AGGREGATES)) is not None:
            start, end = found
            how = _AGGREGATES[" ".join(token.text for token in self.r.tokens[start:end])]
            mention = self._number_near(end)
            if mention is None:
                break
            self.r.take(*range(start, end))
            self.measures.append(Measure(how, mention.column.name))
            self.counted = mention
        for measure in self.measures:
            self.free = [item for item in self.free if item.column.name != measure.column]

    def _number_near(self, place: int) -> Mention | None:
        """Returns the column of numbers that an aggregate at a place is of."""
        numbers = self.r.mentioned(numeric=True)
        numbers = [m for m in numbers if m.column.name not in {group.name for group in self.groups}]
        after = [m for m in numbers if m.start >= place]
        if after or numbers:
            return (after or numbers[::-1])[0]
        return self._only_number()

    def _only_number(self) -> Mention | None:
        columns = [column for column in self.r.table.columns if column.numeric]
        if len(columns) != 1:
            return None
        self.r.notes.append(f"{columns[0].name} is the only column of numbers")
        return Mention(-1, -1, columns[0])

    def _counts(self) -> None:
        end = self._take(_COUNTS)
        distinct = self._take(_DISTINCT)
        if end is None and distinct is None:
            return
        place = distinct if distinct is not None else end or 0
        mention = self.r.mention_at(place, 2)
        if mention and mention in self.free:
            column = mention.column
            if column.numeric and distinct is None and not _same_form(self.r, mention):
                self._use(mention)  # `how many lines` of a column `line`: it numbers them
                self.measures.append(Measure("count", noun=self.r.tokens[mention.end - 1].text))
                return
            how: How = "distinct" if distinct is not None or not column.numeric else "sum"
            self.measures.append(Measure(how, self._use(mention)))
        elif end is not None:
            self.measures.append(Measure("count", noun=self._noun(place)))

    def _noun(self, place: int) -> str:
        """Returns what the user calls a row, and takes that word if the table is called so too."""
        while place < len(self.r.tokens) and self.r.tokens[place].stop and place not in self.r.nouns:
            place += 1
        if place not in self.r.nouns and place + 1 in self.r.nouns:  # `root certificates` of certificates.csv
            self.entities.add(place)
            place += 1
        values = {at for value in self.r.values for at in range(value.start, value.end)}
        if place >= len(self.r.tokens) or (self.r.used[place] and place not in self.r.nouns | values):
            return "rows"
        noun = self.r.tokens[place].text
        self.entities.add(place)
        taken = {group.name for group in self.groups} | {column.name for column in self.r.table.columns}
        if noun in ("rows", "row", "records", "record", "entries", "entry", "lines", "items", "there"):
            self.r.take(place)
        return noun if noun.isalpha() and noun not in taken else "rows"

    def _row_noun(self) -> str:
        """Returns what the user calls the table's rows, if the clause says so."""
        return next((self.r.tokens[p].text for p in sorted(self.r.nouns) if self.r.tokens[p].text.isalpha()), "rows")

    def _ranking(self, place: int) -> None:
        """The words after `most`, `top 5`: what is ranked, or by what."""
        after = self.r.mention_at(place, 2)
        subject = self._subject()
        if self.measures and (self.groups or subject):
            self._rank(subject, None)
        elif after and after in self.free and (after.column.numeric or after.column.temporal):
            if subject is None and self.limit is None:
                how: How = "max" if self.descending else "min"
                self.measures.append(Measure(how, self._use(after)))
                return
            self._rank(subject, after)
        else:
            by = next((m for m in self.free if m.column.numeric and m is not after), None)
            self._rank(after if after in self.free else subject, by)

    def _subject(self) -> Mention | None:
        """The column whose values are ranked: `which country has …`, `the country with …`."""
        before = [m for m in self.free if m.end <= self.superlative_at and not m.column.numeric]
        return before[-1] if before else None

    def _rank(self, subject: Mention | None, by: Mention | None) -> None:
        if subject is not None:
            name = self._use(subject)
            self._count_before(subject)
            if by is None and not self.measures and self.word in _OF_TIME and self.r.temporal:
                by = Mention(-1, -1, self.r.temporal[0])
            if by is not None and self._unique(name):
                self.columns = [name, by.column.name]
                self._use(by)
                self.order = by.column.name
            else:
                self.groups.append(Group(name))
        elif by is None and self.word in _OF_TIME and self.r.temporal:
            self.order = self.r.temporal[0].name
        elif by is not None and not self.groups:
            self.order = self._use(by)
        if by is not None and self.groups and not self.measures:
            self.measures.append(Measure("sum", by.column.name) if by.column.numeric else self._latest(by))
            self._use(by)
        if self.groups and not self.measures:
            noun = self._noun(self.superlative_at + 1)
            self.measures.append(Measure("count", noun=noun))
        if self.groups and self.measures:
            self.order = "measure"
        if self.limit is None:
            self.limit = 1 if subject is None or self._is_single(subject) else 10

    def _count_before(self, subject: Mention) -> None:
        """`the 7 countries with the most …`."""
        place = subject.start - 1
        value = number(self.r.tokens[place]) if place >= 0 and not self.r.used[place] else None
        if isinstance(value, int) and 0 < value <= MAX_LIMIT and self.limit is None:
            self.limit = value
            self.r.take(place)

    def _latest(self, by: Mention) -> Measure:
        return Measure("max" if self.descending else "min", by.column.name)

    def _is_single(self, mention: Mention) -> bool:
        word = self.r.tokens[mention.end - 1].text
        return singular(word) == word

    def _unique(self, column: str) -> bool:
        return self.r.table.distinct(column) == self.r.table.rows

    def _share(self) -> None:
        of = next((m.column for m in self.free if m.column.numeric), None)
        if self.measures and self.measures[0].how == "sum":
            of = self.r.table.column(self.measures[0].column or "")
        column = of.name if of else None
        if self.groups:
            self.measures = [Measure("share", column)]
        elif self.filters:
            self.measures, self.filters = [Measure("share", column, only=tuple(self.filters))], []
        elif self.free:
            self.groups, self.measures = [Group(self._use(self.free[0]))], [Measure("share", column)]

    def _rest(self) -> None:
        """Columns that are still free: figures of groups, a correlation, or the columns of a list."""
        numbers = [m.column.name for m in self.free if m.column.numeric]
        if self._take(("correlation", "correlate", "correlated", "relationship")) is not None and len(numbers) > 1:
            self.measures = [Measure("corr", numbers[0], numbers[1])]
        elif self.groups and not self.measures:
            summed = [Measure("sum", name) for name in numbers[:3]]
            if summed or not self.elliptic:
                self.measures = summed or [Measure("count", noun=self._row_noun())]
        elif not self.measures and not self.columns:
            asked = self._take(_LISTS) is not None
            whole = [m.column.name for m in self.free]
            if self.filters or self.order or (asked and whole):
                shown = [item.column for item in self.filters if item.column not in whole]
                self.columns = list(dict.fromkeys([*shown, *whole])) if whole else []
        for place, token in enumerate(self.r.tokens):
            if token.text in (*_CHARTS, *_LISTS) and not self.r.used[place]:
                self.r.take(place)

    def _finish(self, having: object) -> Ask | None:
        names = {group.name for group in self.groups}
        self.measures = [replace(m, noun="rows") if m.how == "count" and m.noun in names else m for m in self.measures]
        self.measures = list(dict.fromkeys(self.measures))
        order, descending = self.order, self.descending
        if self.groups and self.measures and order not in {*names, "measure"}:
            in_time = self.groups[0].unit is not None or self._is_year(self.groups[0].column)
            order, descending = ("group", False) if in_time else ("measure", descending)
        if not (self.measures or self.groups or self.columns or self.filters or order):
            return None
        if self.measures and not self.groups:
            order = self.limit = None
        return Ask(
            tuple(self.measures), tuple(dict.fromkeys(self.groups)), tuple(self.filters), tuple(self.columns), order,
            descending, self.limit, having,  # type: ignore[arg-type]
        )  # fmt: skip

    def _is_year(self, column: str) -> bool:
        return self.r.table.column(column).integral


def _same_form(reading: Reading, mention: Mention) -> bool:
    """Tells whether a column is called in the number, singular or plural, that its name has."""
    return name_words(mention.column.name)[-1:] == [reading.tokens[mention.end - 1].text]
