"""`Draft`: an ask in the making, and the words of its clause that are still open."""

from __future__ import annotations

from worker.questions.ask import Filter, Group, Measure
from worker.questions.reading import Mention, Reading
from worker.questions.vocabulary import AGGREGATES, ARTICLES, BINDING, LEAST, MOST, NO_SQL, VERBS


class Draft:
    """Parts of an ask; each part takes the words that it explains.

    Args:
        reading: of the clause.
        elliptic: the clause goes on from another, so what it leaves out is not to be guessed.
    """

    def __init__(self, reading: Reading, *, elliptic: bool) -> None:
        self.r = reading
        self.elliptic = elliptic
        self.entities: set[int] = set()  # what the user calls a row
        self.idle: set[int] = set()  # columns that are mentioned and play no part
        self.filters: list[Filter] = []
        self.measures: list[Measure] = []
        self.groups: list[Group] = []
        self.columns: list[str] = []
        self.order: str | None = None
        self.descending = True
        self.limit: int | None = None
        self.word = ""  # the superlative, and where it stands
        self.word_at = -1
        self.free = list(reading.mentions)  # columns whose part in the sentence is still open

    @property
    def meant(self) -> set[int]:
        """Where columns, values and the table's own name stand: a word before one of them narrows it."""
        spans = [(item.start, item.end) for item in self.r.mentions] + [(v.start, v.end) for v in self.r.values]
        return self.r.nouns | {place for start, end in spans for place in range(start, end)}

    def missing(self) -> str | None:
        """Returns what the table lacks for an answer to just this question, None if nothing."""
        meant = self.meant
        for place in self.r.content:
            word = self.r.tokens[place].text
            if word in NO_SQL:
                return f"I know no way to work out {word!r}"
            if not self.r.used[place] and (lacking := self._lacking(place, word, narrows=place + 1 in meant)):
                return lacking
        return None

    def _lacking(self, place: int, word: str, *, narrows: bool) -> str | None:
        """Returns why a word that was not understood must not be passed over, None if it may."""
        table = self.r.table.document
        if word in AGGREGATES or word in MOST or word in LEAST:
            return f"I found no column of numbers for {word!r}"
        if place in self.idle:
            return None
        if place in self.entities and not narrows:
            if self.r.row_nouns:
                return f"the rows of {table} are {' '.join(self.r.row_nouns)}, not {word}"
            self.r.notes.append(f"I took {word!r} for the rows of {table}")
            return None
        before = place - 1
        while before >= 0 and self.r.tokens[before].text in ARTICLES:
            before -= 1
        bound = before >= 0 and self.r.tokens[before].text in BINDING
        if bound or (narrows and word not in VERBS):
            return f"{table} has no column or value for {self.r.tokens[place].raw.strip('.,;:!?')!r}"
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
