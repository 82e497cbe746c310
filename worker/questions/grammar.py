"""From a clause to an `Ask`: figures, groups, order and limit, by the verbs and nouns that tables are asked with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worker.questions.ask import Ask, Group, Measure, Op
from worker.questions.conditions import Having, number_filters, truth_filters, value_filters
from worker.questions.figures import FigureWords
from worker.questions.reading import Reading, is_key
from worker.questions.times import time_filters
from worker.questions.vocabulary import (
    ASK_FOR_ROWS,
    CHARTS,
    CORRELATION,
    FILLERS,
    LISTS,
    SHARES,
    YES_OR_NO,
)  # fmt: skip


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
    draft = _Sentence(reading, elliptic=elliptic)
    ask = draft.ask()
    if missing := draft.missing():
        reading.notes.append(missing)
        ask = None
    return Parsed(
        ask, reading.coverage, tuple(reading.unplaced), tuple(reading.notes), reading.named,
        len({m.column.name for m in reading.mentions}) + len({v.value for v in reading.values}),
    )  # fmt: skip


class _Sentence(FigureWords):
    """Puts an ask together."""

    def ask(self) -> Ask | None:
        """Returns the ask, None if no part was found."""
        share = self._take(SHARES)
        if share is not None:
            self._noun(share)
        self.filters = value_filters(self.r)
        numbers, having = number_filters(self.r)  # before what takes the `most` of `at most 4`
        self._sort()
        superlative = self._superlative()
        self._group()
        self.filters += numbers + time_filters(self.r)
        self._truths()
        self.free = [m for m in self.free if m.column.name not in {f.column for f in numbers}]
        self._aggregates()
        self._counts()
        if superlative is not None:
            self._ranking(superlative)
        if share is not None:
            self._share()
        self._rest()
        if share is not None and not any(measure.how == "share" for measure in self.measures):
            self.r.unclear.append("the share")
        bounded = self._bounded(having) if having else None
        self._check()
        if self.r.unclear:
            self.r.notes += [f"I could not tell what is to be {what}" for what in self.r.unclear[:1] if what]
            return None
        return self._finish(having[:2] if having else None, bounded)

    def _truths(self) -> None:
        known = {item.column for item in self.filters}
        found = truth_filters(self.r, [m for m in self.free if m.column.name not in known])
        names = {item.column for item in found}
        self.truth_at = {p for m in self.free if m.column.name in names for p in range(m.start, m.end)}
        self.free = [mention for mention in self.free if mention.column.name not in names]
        self.filters += found

    def _bounded(self, having: Having) -> Measure:
        """Returns the figure that is bounded; groups by what it is of: `countries with more than 5 sales`."""
        bounded = having[2] or Measure("count", noun=self._row_noun())
        if not self.groups and self.free and self.measures in ([], [bounded]):
            self.groups.append(Group(self._use(self.free[0])))
            self.measures = [bounded]
        if having[0] in ("<", "<=") and self.filters:  # those with none at all would be missing
            self.r.unclear.append(f"{having[0]} {having[1]}")
        if not (self.measures and self.groups) or any(measure.how == "share" for measure in self.measures):
            self.r.unclear.append(f"{having[0]} {having[1]}")
        return bounded

    def _check(self) -> None:
        """Refuses what would be another figure than the one that was asked for."""
        tell = self.r.unclear.append
        if self.sorts and len(self.measures) != 1:
            tell("the order")
        if self.measures and self.r.tokens[0].text in ASK_FOR_ROWS:
            tell(f"a figure of {self.r.tokens[0].text!r}")
        if self.word and (not self.ranked or (self.measures and not self.groups and not self.extreme)):
            tell(f"ranked by {self.word!r}")
        shown = {c.name for c in self.r.table.columns if c.type == "BOOLEAN"} & set(self.columns)
        if shown - {f.column for f in self.filters} and not self.lists and self.r.tokens[0].text not in YES_OR_NO:
            tell(f"the part of {min(shown)!r}")  # `people active in 2021`
        named = {mention.column.name for mention in self.r.mentions}
        if self.truth_at and {f.column for f in self.filters if f.date or f.unit} - named:
            tell(f"then {self.r.tokens[min(self.truth_at)].text!r}")  # `how many people were active in 2021`
        self._check_figures()

    def _check_figures(self) -> None:
        tell = self.r.unclear.append
        for measure in self.measures:
            column = next((c for c in self.r.table.columns if c.name == measure.column), None)
            if column and is_key(column) and measure.how not in ("distinct", "corr"):
                whole = any(m.column is column and m.whole for m in self.r.mentions)
                if measure.how not in ("min", "max") or not whole:
                    tell(f"worked out of {column.name}: its numbers are no amounts")
        # `total amount in north and average amount in south` is two questions.
        first, last = (min(self.said_at), max(self.said_at)) if self.said_at else (0, 0)
        plain = {place for m in self.r.mentions for place in range(m.start, m.end)} | self.r.nouns | set(self.said_at)
        for place in range(first, last):
            word = self.r.tokens[place].text
            if place not in plain and word not in FILLERS and place not in self.entities:
                tell(f"the part of {word!r}")

    def _share(self) -> None:
        of = next((m.column for m in self.free if m.column.numeric), None)
        if len(self.measures) > 1 or any(item.how not in ("sum", "count") for item in self.measures):
            return
        if len(self.filters) > (not self.groups):
            return  # a share of which of them?
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
        if len(numbers) == 2 and not self.measures and self._take(CORRELATION) is not None:  # noqa: PLR2004 - a pair
            self.measures = [Measure("corr", numbers[0], numbers[1])]
        elif self.groups and not self.measures:
            keys = [m for m in self.free if is_key(m.column) and not m.whole and self.r.table.unique(m.column.name)]
            if len(keys) == len(numbers) == 1:  # `orders by region` of a column order_id
                self.counted.add(self._use(keys[0]))
                numbers = []
            summed = [Measure("sum", name) for name in numbers[:3]]
            if summed or not self.elliptic:
                self.measures = summed or [Measure("count", noun=self._row_noun())]
        elif not self.measures and not self.columns:
            asked = self.lists = self._take(LISTS) is not None
            whole = [m.column.name for m in self.free]
            if self.filters or self.order or (asked and whole):
                shown = [item.column for item in self.filters if item.column not in whole]
                self.columns = list(dict.fromkeys([*shown, *whole])) if whole else []
        for place, token in enumerate(self.r.tokens):
            if token.text in (*CHARTS, *LISTS) and not self.r.used[place]:
                self.r.take(place)

    def _finish(self, having: tuple[Op, int | float] | None, bounded: Measure | None) -> Ask | None:
        names = {group.name for group in self.groups}
        self.measures = [replace(m, noun="rows") if m.how == "count" and m.noun in names else m for m in self.measures]
        self.measures = list(dict.fromkeys(self.measures))
        order, descending = self.order, self.descending
        if self.groups and self.measures and order not in {*names, "measure"}:
            in_time = self.groups[0].unit is not None or self._is_year(self.groups[0].column)
            order, descending = ("group", False) if in_time else ("measure", descending)
        if not (self.measures or self.groups or self.columns or self.filters or order):
            return None
        if self.word and not (self.measures or self.groups or order):
            self.r.notes.append(f"I found nothing to rank by for {self.word!r}")
            return None
        if dates := self._unclear_dates():
            self.r.notes.append(f"say which date is meant: {' or '.join(dates)}")
            return None
        if self.measures and not self.groups:
            order = self.limit = None  # one row
        self._give_back(order, bounded)
        return Ask(
            tuple(self.measures), tuple(dict.fromkeys(self.groups)), tuple(self.filters), tuple(self.columns), order,
            descending, self.limit, having, bounded,
        )  # fmt: skip

    def _unclear_dates(self) -> list[str]:
        """Returns the dates of a table that has several, if one of them is used that the clause does not name."""
        dates = [column.name for column in self.r.table.columns if column.temporal]
        named = {mention.column.name for mention in self.r.mentions}
        used = {*(f.column for f in self.filters), *(g.column for g in self.groups), self.order} & set(dates)
        return dates if len(dates) > 1 and used - named else []

    def _give_back(self, order: str | None, bounded: Measure | None) -> None:
        """Columns that are mentioned and play no part were not understood."""
        conditions = (*self.filters, *(part for item in self.measures for part in item.only))
        playing = {order, *self.columns, *self.counted, *(item.column for item in self.groups)}
        playing |= {item.column for item in conditions}
        figures = [*self.measures, bounded] if bounded else self.measures
        playing |= {name for item in figures for name in (item.column, item.other)}
        for mention in self.r.mentions:
            if mention.column.name not in playing:
                for place in range(mention.start, mention.end):
                    self.r.used[place] = False
                    self.idle.add(place)

    def _is_year(self, column: str) -> bool:
        return self.r.table.column(column).integral
