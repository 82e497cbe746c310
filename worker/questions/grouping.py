"""`by region`, `per month`, `over time`, `sorted by`: one row of figures for each, and in which order."""

from __future__ import annotations

from datetime import date

from worker.questions.ask import Group, Unit
from worker.questions.draft import Draft
from worker.questions.vocabulary import DOWN, OVER_TIME, PER, SORT, SPREAD, UNITS, UP
from worker.tools.tables import Column

DAYS_OF_YEARS, DAYS_OF_MONTHS = 3 * 366, 60


class Grouping(Draft):
    """Finds groups and orders."""

    def _sort(self) -> None:
        end = self._take(SORT)
        if end is not None and (mention := self.r.mention_at(end, 2)):
            self.order, self.descending = self._use(mention), mention.column.numeric
        elif end is not None:
            self.sorts = True  # by the figure, if there is one only
        if self._take(UP) is not None:
            self.descending = False
        elif self._take(DOWN) is not None:
            self.descending = True

    def _group(self) -> None:
        while (found := self.r.find(PER)) is not None:
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
            if not self.r.used[place] and token.text.endswith("ly") and token.text in UNITS:
                self._group_by_time(UNITS[token.text], place)
        if self.r.temporal and not self.groups and self._take(OVER_TIME) is not None:
            self._group_by_time(self._fitting_unit(), None)
        if (spread := self._take(SPREAD)) is not None:
            grouped = self._group_at(spread, reach=3)
            if not grouped and (mention := self.r.mention_at(spread, 3)) and mention.column.numeric:
                self.r.unclear.append(f"the distribution of {mention.column.name}")
            self._noun(spread)

    def _group_at(self, place: int, reach: int = 3) -> bool:
        mention = self.r.mention_at(place, reach)
        if mention and mention in self.free:
            column = mention.column
            if (column.numeric and self.word) or column.floating or column.nested:
                return False  # `top 5 cities by people` is an order
            self.groups.append(Group(self._use(mention), self._unit_of(column) if column.temporal else None))
            return True
        for step in range(min(reach, len(self.r.tokens) - place)):
            token = self.r.tokens[place + step]
            if token.text in UNITS and self.r.temporal:
                return self._group_by_time(UNITS[token.text], place + step)
        return False

    def _unit_of(self, column: Column) -> Unit | None:
        """`yearly … by valid until`; a time of day is grouped by its day."""
        for place, token in enumerate(self.r.tokens):
            if token.text.endswith("ly") and token.text in UNITS and not self.r.used[place]:
                self.r.take(place)
                return UNITS[token.text]
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
        self.groups.append(Group(column.name, unit))
        return True

    def _fitting_unit(self) -> Unit:
        low, high = self.r.table.bounds(self.r.temporal[0].name)
        try:
            days = (date.fromisoformat(high[:10]) - date.fromisoformat(low[:10])).days
        except ValueError:
            return "year"
        return "year" if days > DAYS_OF_YEARS else "month" if days > DAYS_OF_MONTHS else "day"
