"""`the most`, `top 5`, `the 3 oldest`: what is ranked, by what, and how many are wanted."""

from __future__ import annotations

from worker.questions.ask import Group, How, Measure
from worker.questions.grouping import Grouping
from worker.questions.reading import Mention
from worker.questions.vocabulary import ARTICLES, ASK_FOR_ROWS, LEAST, MOST, OF_TIME
from worker.questions.words import number, singular

MAX_LIMIT = 100


class Ranking(Grouping):
    """Finds superlatives."""

    def _superlative(self) -> int | None:
        """Takes `top 5`, `the most`, `the 3 lowest`; returns where what they are about begins."""
        found = self.r.find((*MOST, *LEAST))
        if found is None:
            return None
        if len(self.r.tokens) > found[1] and self.r.tokens[found[1]].text in ("first", "last"):
            return None
        start, end = found
        self.word, self.word_at = self.r.tokens[start].text, start
        self.descending = self.word in MOST
        self.r.take(start)
        for place in (start - 1, end):
            value = number(self.r.tokens[place]) if 0 <= place < len(self.r.tokens) else None
            if isinstance(value, int) and 0 < value <= MAX_LIMIT and not self.r.used[place]:
                self.limit = value
                self.r.take(place)
                end = max(end, place + 1)
        while end < len(self.r.tokens) and self.r.tokens[end].text in ("most", "frequent", "common", "often"):
            self.r.take(end)
            self.frequent = True
            end += 1
        return end

    def _ranking(self, place: int) -> None:
        """The words after `most`, `top 5`: what is ranked, or by what."""
        after = self.r.mention_at(place, 2)
        subject = self._subject()
        if self.said_at and min(self.said_at) < self.word_at:
            return  # `total amount of the top 5 customers`: a question within a question
        if self.word in OF_TIME and not self._named_time(after):
            return
        self.ranked = True
        if self.measures and (self.groups or subject):
            self._rank(subject, None)
        elif after and after in self.free and (after.column.numeric or after.column.temporal):
            if subject is None and self.limit is None and not self._asks_for_rows():
                how: How = "max" if self.descending else "min"
                self.measures.append(Measure(how, self._use(after)))
                self.extreme = True
                return
            self._rank(subject, after)
        else:
            by = next((m for m in self.free if m.column.numeric and m is not after), None)
            if by is None and not self.measures and not self._counting():
                self.ranked = False
                return
            self._rank(after if after in self.free else subject, by)

    def _asks_for_rows(self) -> bool:
        """`who has the lowest salary`, `which person has …`: the figure alone is no answer."""
        return self.r.tokens[0].text in ASK_FOR_ROWS or (self.r.phrase(0, "which") and 1 in self.r.nouns)

    def _counting(self) -> bool:
        """Tells whether the most rows are meant: not of `the largest department`, `top 3 customers`."""
        return self.word in ("most", "least", "fewest") or self.word in OF_TIME or self.frequent

    def _named_time(self, after: Mention | None) -> bool:
        """Tells whether it is said which date `oldest` is about; `latest` and `earliest` need no name."""
        dates = [column.name for column in self.r.table.columns if column.temporal]
        if after and after.column.numeric:
            return False  # `latest salary`
        named = any(mention.column.temporal for mention in self.r.mentions)
        if dates and not named and self.word in ("oldest", "newest"):
            self.r.unclear.append("")
            self.r.notes.append(f"say which date is meant: {' or '.join(dates)}")
            return False
        return True

    def _subject(self) -> Mention | None:
        """The column whose values are ranked: `which country has …`, `the country with …`."""
        before = [m for m in self.free if m.end <= self.word_at and not m.column.numeric]
        return before[-1] if before else None

    def _rank(self, subject: Mention | None, by: Mention | None) -> None:
        if subject is not None:
            name = self._use(subject)
            self._count_before(subject)
            if by is None and not self.measures and self.word in OF_TIME and self.r.temporal:
                by = Mention(-1, -1, self.r.temporal[0])
            if by is not None and self._unique(name):
                self.columns = [name, by.column.name]
                self._use(by)
                self.order = by.column.name
            else:
                self.groups.append(Group(name))
        elif by is None and self.word in OF_TIME and self.r.temporal:
            self.order = self.r.temporal[0].name
        elif by is not None and not self.groups:
            self.order = self._use(by)
        self._take_by(by)
        if by is not None and self.groups and not self.measures:
            self.measures.append(Measure("sum", by.column.name) if by.column.numeric else self._latest(by))
            self._use(by)
        if self.groups and not self.measures:
            noun = self._noun(self.word_at + 1)
            self.measures.append(Measure("count", noun=noun))
        if self.groups and self.measures:
            self.order = "measure"
        if self.limit is None:
            self.limit = 1 if subject is None or self._is_single(subject) else 10

    def _only_number(self) -> Mention | None:
        columns = [column for column in self.r.table.columns if column.numeric]
        if len(columns) != 1:
            return None
        return Mention(-1, -1, columns[0])

    def _take_by(self, by: Mention | None) -> None:
        """`top 5 customers by amount`."""
        place = by.start - 1 if by else -1
        while place >= 0 and self.r.tokens[place].text in ARTICLES:
            place -= 1
        if place >= 0 and self.r.tokens[place].text == "by":
            self.r.take(place)

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
        return self.r.table.unique(column)
