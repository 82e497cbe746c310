"""`Draft`: an ask in the making, and the words of its clause that are still open."""

from __future__ import annotations

from worker.questions.ask import Filter, Group, Measure
from worker.questions.reading import Mention, Reading
from worker.questions.vocabulary import AGGREGATES, FILLERS, LEAST, MOST, NO_SQL, ROW_WORDS
from worker.questions.words import enumerate_words, singular


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
        self.counted: set[str] = set()  # columns that number the rows
        self.truth_at: set[int] = set()  # columns of truth values that are conditions
        self.idle: set[int] = set()  # columns that are mentioned and play no part
        self.filters: list[Filter] = []
        self.measures: list[Measure] = []
        self.groups: list[Group] = []
        self.columns: list[str] = []
        self.order: str | None = None
        self.descending = True
        self.limit: int | None = None
        self.lists = False
        self.sorts = False
        self.frequent = False  # `most frequent`
        self.extreme = False  # `the largest amount` is a figure
        self.ranked = False  # whether the superlative has its part in the ask
        self.said_at: list[int] = []  # where figures are asked for
        self.word = ""  # the superlative, and where it stands
        self.word_at = -1
        self.free = list(reading.mentions)  # columns whose part in the sentence is still open

    def missing(self) -> str | None:
        """Returns what the table lacks for an answer to just this question, None if nothing."""
        left = [p for p, token in enumerate(self.r.tokens) if not self.r.used[p] and not self._filler(p, token.text)]
        for place in left:
            if reason := self._special(place, self.r.tokens[place].text):
                return reason
        left = [place for place in left if place not in self.assumed]
        said = [place for place in left if not self.r.tokens[place].stop]
        if not left:
            self.r.take(*(set(self.r.content) - self.assumed))
            return None
        words = [repr(self.r.tokens[place].raw.strip('.,;:!?()"')) for place in said or left]
        if any(self.r.tokens[place].text in (*AGGREGATES, *MOST, *LEAST) for place in said):
            return f"I found no column of numbers for {enumerate_words(words)}"
        if any(place in self.idle for place in said):
            return f"I could not tell what {enumerate_words(words)} shall do in this question"
        if said:
            return f"{self.r.table.document} has no column or value for {enumerate_words(words)}"
        return f"I could not tell what {enumerate_words(words)} means for {self.r.table.document}"

    def _filler(self, place: int, word: str) -> bool:
        return word in FILLERS and not self.r.tokens[place].quoted and place not in self.idle

    def _special(self, place: int, word: str) -> str | None:
        table = self.r.table.document
        if word in NO_SQL:
            return f"I know no way to work out {word!r}"
        if place in self.entities and self.r.row_nouns and place not in self.idle:
            return f"the rows of {table} are {' '.join(self.r.row_nouns)}, not {word}"
        if place in self.assumed:
            self.r.notes.append(f"I took {word!r} for the rows of {table}")
        return None

    @property
    def assumed(self) -> set[int]:
        """The word for a row where the table's name tells none: at most one, a plural."""
        words = {self.r.tokens[place].text for place in self.entities}
        plural = all(word.isalpha() and singular(word) != word for word in words)
        return self.entities - self.idle if not self.r.row_nouns and len(words) == 1 and plural else set()

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
        if noun in ROW_WORDS:
            self.r.take(place)
        return noun if noun.isalpha() and noun not in taken else "rows"

    def _row_noun(self) -> str:
        """Returns what the user calls the table's rows, if the clause says so."""
        return next((self.r.tokens[p].text for p in sorted(self.r.nouns) if self.r.tokens[p].text.isalpha()), "rows")
