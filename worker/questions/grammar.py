"""From a clause to an `Ask`: figures, groups, order and limit, by the verbs and nouns that tables are asked with."""

from __future__ import annotations

from dataclasses import dataclass, replace

from worker.questions.ask import Ask, Group, How, Measure
from worker.questions.conditions import number_filters, time_filters, value_filters
from worker.questions.ranking import Ranking
from worker.questions.reading import Mention, Reading
from worker.questions.vocabulary import AGGREGATES, CHARTS, COUNTS, DISTINCT, LISTS, SHARES
from worker.questions.words import name_words


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


class _Sentence(Ranking):
    """Puts an ask together."""

    def ask(self) -> Ask | None:
        """Returns the ask, None if no part was found."""
        share = self._take(SHARES)
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
            self.r.unclear.append(f"{having[0]} {having[1]}")
        if self.r.unclear:
            self.r.notes.append(f"I could not tell what is to be {self.r.unclear[0]}")
            return None
        return self._finish(having)

    def _aggregates(self) -> None:
        while (found := self.r.find(AGGREGATES)) is not None:
            start, end = found
            how = AGGREGATES[" ".join(token.text for token in self.r.tokens[start:end])]
            mention = self._number_near(end)
            if mention is None or (self.r.phrase(start, "mean") and mention.start < end):  # `what does amount mean`
                break
            self.r.take(*range(start, end))
            self.measures.append(Measure(how, mention.column.name))
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

    def _counts(self) -> None:
        end = self._take(COUNTS)
        if end is None:
            return
        distinct = self._take(DISTINCT)
        place = end if distinct is None else distinct
        mention = self.r.mention_at(place, 2)
        if mention and mention in self.free:
            column = mention.column
            if column.numeric and distinct is None and not _same_form(self.r, mention):
                self._use(mention)  # `how many lines` of a column `line`: it numbers them
                self.measures.append(Measure("count", noun=self.r.tokens[mention.end - 1].text))
                return
            how: How = "distinct" if distinct is not None or not column.numeric else "sum"
            self.measures.append(Measure(how, self._use(mention)))
        else:
            self.measures.append(Measure("count", noun=self._noun(place)))

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
            asked = self._take(LISTS) is not None
            whole = [m.column.name for m in self.free]
            if self.filters or self.order or (asked and whole):
                shown = [item.column for item in self.filters if item.column not in whole]
                self.columns = list(dict.fromkeys([*shown, *whole])) if whole else []
        for place, token in enumerate(self.r.tokens):
            if token.text in (*CHARTS, *LISTS) and not self.r.used[place]:
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
        if self.word and not (self.measures or self.groups or order):
            self.r.notes.append(f"I found nothing to rank by for {self.word!r}")
            return None
        if dates := self._unclear_dates():
            self.r.notes.append(f"say which date is meant: {' or '.join(dates)}")
            return None
        if self.measures and not self.groups:
            order = self.limit = None
        self._give_back()
        return Ask(
            tuple(self.measures), tuple(dict.fromkeys(self.groups)), tuple(self.filters), tuple(self.columns), order,
            descending, self.limit, having,  # type: ignore[arg-type]
        )  # fmt: skip

    def _unclear_dates(self) -> list[str]:
        """Returns the dates of a table that has several, if one of them is used that the clause does not name."""
        dates = [column.name for column in self.r.table.columns if column.temporal]
        named = {mention.column.name for mention in self.r.mentions}
        used = {*(f.column for f in self.filters), *(g.column for g in self.groups), self.order} & set(dates)
        return dates if len(dates) > 1 and used - named else []

    def _give_back(self) -> None:
        """Columns that are mentioned and play no part were not understood."""
        conditions = (*self.filters, *(part for item in self.measures for part in item.only))
        playing = {self.order, *self.columns, *(item.column for item in self.groups), *(c.column for c in conditions)}
        playing |= {name for item in self.measures for name in (item.column, item.other)}
        for mention in self.free:
            if mention.column.name not in playing:
                for place in range(mention.start, mention.end):
                    self.r.used[place] = False
                    self.idle.add(place)

    def _is_year(self, column: str) -> bool:
        return self.r.table.column(column).integral


def _same_form(reading: Reading, mention: Mention) -> bool:
    """Tells whether a column is called in the number, singular or plural, that its name has."""
    return name_words(mention.column.name)[-1:] == [reading.tokens[mention.end - 1].text]
