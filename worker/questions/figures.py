"""`total amount`, `how many sales`: the figures that a clause asks for."""

from __future__ import annotations

from worker.questions.ask import How, Measure
from worker.questions.ranking import Ranking
from worker.questions.reading import Mention, Reading, is_key
from worker.questions.vocabulary import AGGREGATES, ARTICLES, COUNTS, DISTINCT, UNITS, UNSAID
from worker.questions.words import name_words


class FigureWords(Ranking):
    """Finds aggregates and counts."""

    def _aggregates(self) -> None:
        while (found := self.r.find(AGGREGATES)) is not None:
            start, end = found
            how = AGGREGATES[" ".join(token.text for token in self.r.tokens[start:end])]
            mention = self._number_near(end)
            if how == "sum" and self.r.find(COUNTS) and self.r.find(COUNTS)[0] == end:  # type: ignore[index]
                self.r.take(*range(start, end))  # `total number of sales`
                continue
            if mention is None or self._of_something_else(end, mention):
                break
            if self.r.phrase(start, "mean") and mention.start < end:  # `what does amount mean`
                break
            self._say(start, end)
            self.measures.append(Measure(how, mention.column.name))
            if mention.start < 0:
                self.r.notes.append(f"{mention.column.name} is the only column of numbers")
        for measure in self.measures:
            self.free = [item for item in self.free if item.column.name != measure.column]

    def _say(self, start: int, end: int) -> None:
        """Takes the words that ask for a figure, and the `by` of `top 5 customers by number of sales`."""
        self.r.take(*range(start, end))
        self.said_at += range(start, end)
        before = start - 1
        while before >= 0 and self.r.tokens[before].text in ARTICLES:
            before -= 1
        if before >= 0 and self.word and self.r.phrase(before, "by"):
            self.r.take(before)

    def _of_something_else(self, place: int, mention: Mention) -> bool:
        """Tells whether an aggregate is not of a column: `average number of sales`, `average daily amount`."""
        here = place
        while here < len(self.r.tokens) and (
            self.r.tokens[here].text in ("and", *ARTICLES) or self.r.tokens[here].text in AGGREGATES
        ):
            here += 1
        if here == len(self.r.tokens):
            return False
        word = self.r.tokens[here].text
        if mention.start < 0:
            return word not in UNSAID
        joined = here > place and self.r.tokens[here - 1].text in AGGREGATES and not self.r.phrase(here - 2, "and")
        counts = any(self.r.phrase(here, *phrase.split()) for phrase in COUNTS) and mention.start != here
        return counts or joined or (word in UNITS and word.endswith("ly")) or here in self.truth_at

    def _number_near(self, place: int) -> Mention | None:
        """Returns the column of numbers that an aggregate at a place is of."""
        numbers = self.r.mentioned(numeric=True)
        numbers = [m for m in numbers if m.column.name not in {group.name for group in self.groups}]
        after = [m for m in numbers if m.start >= place]
        if after or numbers:
            return (after or numbers[::-1])[0]
        return self._only_number()

    def _counts(self) -> None:
        found = self.r.find(COUNTS)
        if found is None:
            return
        start, end = found
        self._say(start, end)
        distinct = self._take(DISTINCT)
        place = end if distinct is None else distinct
        while place in self.truth_at:
            place += 1
        mention = self.r.mention_at(place, 2)
        if distinct is not None and not (mention and mention in self.free):
            self.r.unclear.append("counted once")
        if mention and mention in self.free:
            column = mention.column
            if column.numeric and distinct is None and not _same_form(self.r, mention):
                name = self._use(mention)  # `how many lines` of a column `line`: it numbers them
                self.counted.add(name)
                if self.r.table.unique(name):
                    self.measures.append(Measure("count", noun=self.r.tokens[mention.end - 1].text))
                elif is_key(column):
                    self.measures.append(Measure("distinct", name))
                else:
                    self.r.unclear.append(f"counted of {name}")
                return
            how: How = "distinct" if distinct is not None or not column.numeric else "sum"
            self.measures.append(Measure(how, self._use(mention)))
        else:
            self.measures.append(Measure("count", noun=self._noun(place)))


def _same_form(reading: Reading, mention: Mention) -> bool:
    """Tells whether a column is called in the number, singular or plural, that its name has."""
    return name_words(mention.column.name)[-1:] == [reading.tokens[mention.end - 1].text]
