"""`Reading`: the words of a clause, and which of them a table explains: columns, its name, values that occur."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from worker.questions.ask import literal
from worker.questions.words import Token, name_words, number, same, singular, tokens
from worker.tools.tables import Column, quote

MAX_NGRAM = 5
MAX_SHORT = 3  # values of so few letters are easily ordinary words: they count only as they are written
MAX_LOOKUP_CHARS = 8_000  # of the words in one statement
MAX_VALUES = 20
FEW_VALUES = 50  # a column of so few different values holds categories, whose plurals are meant too
# Words of the grammar: values only as they are written in the table.
_CUES = frozenset({
    "how", "number", "count", "total", "sum", "average", "mean", "median", "share", "percent", "percentage", "top",
    "most", "least", "first", "last", "name", "names", "value", "values", "list",
})  # fmt: skip
_PLACING = frozenset({"in", "for", "from", "is", "at", "="})
# Of a file's name: what says nothing about what is in it.
_FILE_WORDS = frozenset({"csv", "tsv", "jsonl", "json", "ndjson", "parquet", "data", "table", "the", "of", "tab"})

_KEYS = ("id", "ids", "no", "nr", "number", "code", "key", "zip", "index", "postcode")

Query = Callable[[str], list[list[Any]]]


@dataclass(frozen=True)
class TableLook:
    """A table that can be asked.

    Attributes:
        document: its name.
        query: rows of one reading statement; the table is `data`.
    """

    document: str
    columns: tuple[Column, ...]
    rows: int
    query: Query

    def column(self, name: str) -> Column:
        """Returns the column of that name."""
        return next(column for column in self.columns if column.name == name)

    def distinct(self, name: str) -> int:
        """Returns how many different values a column has."""
        return int(self.query(f"SELECT count(DISTINCT {quote(name)}) FROM data")[0][0])  # noqa: S608 - quoted

    def unique(self, name: str) -> bool:
        """Tells whether each row has a value of its own in a column."""
        return self.distinct(name) == self.rows

    def bounds(self, name: str) -> tuple[str, str]:
        """Returns the first and the last value of a column, as text; empty if it has none."""
        low, high = self.query(f"SELECT min({quote(name)})::VARCHAR, max({quote(name)})::VARCHAR FROM data")[0]  # noqa: S608
        return low or "", high or ""

    def occurrences(self, words: Sequence[str]) -> list[tuple[str, str, int]]:
        """Returns column, value and number of rows of each cell that is one of the words, in any case."""
        found: list[tuple[str, str, int]] = []
        for column in self.columns:
            for given in _portions(words) if column.categorical else ():
                name = quote(column.name)
                head = f"WITH words AS (SELECT unnest([{given}]) AS word) "
                sql = (
                    f"{head}SELECT {name}::VARCHAR, count(*) FROM data WHERE lower({name}::VARCHAR) IN (FROM words) "  # noqa: S608
                    f"GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT {MAX_VALUES}"
                )
                found += [(column.name, str(value), int(count)) for value, count in self.query(sql)]
        return found


@dataclass(frozen=True)
class Mention:
    """A column that the words from `start` to before `end` name; `whole` if by all of its name."""

    start: int
    end: int
    column: Column
    whole: bool = True


@dataclass(frozen=True)
class Value:
    """A value of a column that stands in the clause."""

    start: int
    end: int
    column: str
    value: str


def is_key(column: Column) -> bool:
    """Tells whether a column's numbers only name something: they are not added up."""
    return column.integral and name_words(column.name)[-1:] in [[word] for word in _KEYS]


class Reading:
    """See the module.

    Args:
        clause: what was asked.
        table: that should answer it.
    """

    def __init__(self, clause: str, table: TableLook) -> None:
        self.clause = clause
        self.table = table
        self.tokens: list[Token] = tokens(clause)
        self.used = [False] * len(self.tokens)
        self.notes: list[str] = []
        self.unclear: list[str] = []  # bounds of nobody knows what
        self.mentions = self._find_mentions()
        self._find_name()
        self.values = self._find_values()

    def take(self, *places: int) -> None:
        """Marks words as understood."""
        for place in places:
            self.used[place] = True

    def phrase(self, place: int, *words: str) -> bool:
        """Tells whether these words stand at a place."""
        return [token.text for token in self.tokens[place : place + len(words)]] == list(words)

    def find(self, phrases: Iterable[str]) -> tuple[int, int] | None:
        """Returns where the first of several phrases stands among the words not yet used."""
        split = [phrase.split() for phrase in phrases]
        for place in range(len(self.tokens)):
            for words in split:
                end = place + len(words)
                if self.phrase(place, *words) and not any(self.used[place:end]) and not self.tokens[place].quoted:
                    return place, end
        return None

    def mention_at(self, place: int, reach: int = 1) -> Mention | None:
        """Returns the column mentioned at a place, or after up to `reach - 1` words that say nothing."""
        for step in range(reach):
            here = place + step
            for mention in self.mentions:
                if mention.start == here:
                    return mention
            if here >= len(self.tokens) or not self.tokens[here].stop:
                return None
        return None

    def mentioned(self, *, numeric: bool | None = None) -> list[Mention]:
        """Returns the mentions, of numbers only or of the others only."""
        return [item for item in self.mentions if numeric is None or item.column.numeric == numeric]

    @property
    def temporal(self) -> list[Column]:
        """The columns of dates and times, those mentioned first."""
        named = [item.column for item in self.mentions if item.column.temporal]
        return named + [column for column in self.table.columns if column.temporal and column not in named]

    @property
    def content(self) -> list[int]:
        """Where the words are that say something."""
        return [place for place, token in enumerate(self.tokens) if self.used[place] or not token.stop]

    @property
    def unplaced(self) -> list[str]:
        """The words that say something and were not understood."""
        return [self.tokens[place].text for place in self.content if not self.used[place]]

    @property
    def coverage(self) -> float:
        """The share of the words that were understood, 0 to 1."""
        return 1 - len(self.unplaced) / max(1, len(self.content))

    def _find_mentions(self) -> list[Mention]:
        found: list[Mention] = []
        for start in range(len(self.tokens)):
            if found and start < found[-1].end:
                continue
            if mention := self._mention(start):
                found.append(mention)
                self.take(*range(mention.start, mention.end))
        return found

    def _mention(self, start: int) -> Mention | None:
        best: Mention | None = None
        for column in self.table.columns:
            words = name_words(column.name)
            for end in range(start + 1, min(len(self.tokens), start + max(len(words), 1)) + 1):
                texts = [part for token in self.tokens[start:end] for part in name_words(token.text) or [token.text]]
                whole = len(texts) == len(words) and all(map(same, texts, words))
                whole = whole or "".join(texts) == "".join(words)
                if whole and (best is None or end > best.end):
                    best = Mention(start, end, column)
        return best or self._part_of_a_name(start)

    def _part_of_a_name(self, start: int) -> Mention | None:
        token = self.tokens[start]
        if token.stop or token.quoted or len(token.text) < MAX_SHORT:
            return None
        matching = [c for c in self.table.columns if any(same(token.text, word) for word in name_words(c.name))]
        return Mention(start, start + 1, matching[0], whole=False) if len(matching) == 1 else None

    def _find_name(self) -> None:
        """Takes the words that name the table itself: in `certificates.jsonl` the rows are certificates."""
        path = PurePath(self.table.document)
        words = [word for word in name_words(path.stem) if word not in _FILE_WORDS]
        self.row_nouns = [word for word in words if singular(word) != word]  # `certificates`: what its rows are
        self.nouns = {place for place, token in enumerate(self.tokens) if any(same(token.text, word) for word in words)}
        files = {place for place, t in enumerate(self.tokens) if t.text in (path.name.lower(), path.stem.lower())}
        self.named = bool(files) or len(self.nouns) >= len(words) > 0
        self.take(*self.nouns, *files)

    def _find_values(self) -> list[Value]:
        candidates: dict[str, list[tuple[int, int]]] = {}
        for start in range(len(self.tokens)):
            for end in range(start + 1, min(len(self.tokens), start + MAX_NGRAM) + 1):
                text = self._between(start, end)
                if not self._may_be_value(start, end):
                    continue
                for form in {text.lower(), singular(text.lower())}:
                    candidates.setdefault(form, []).append((start, end))
        found = [
            Value(start, end, column, value)
            for column, value, _ in (self.table.occurrences(sorted(candidates)) if candidates else [])
            for start, end in candidates.get(value.lower(), [])
            if self._is_meant(column, value, start, end)
        ]
        return self._longest(found)

    def _is_meant(self, column: str, value: str, start: int, end: int) -> bool:
        """Tells a value from an ordinary word that is also one."""
        written, token = self._between(start, end), self.tokens[start]
        if token.quoted:
            return True
        if written.lower() in _CUES:
            return False
        if value == written:
            after = any(m.end == start and m.column.name == column for m in self.mentions)
            return after or not (token.stop and end - start == 1 and written.islower())
        if len(value) <= MAX_SHORT or start in self.nouns or token.stop:
            return False
        plain = end - start == 1 and written.islower() and not self._is_placed(start)
        return (value.lower() == written.lower() and not plain) or self.table.distinct(column) <= FEW_VALUES

    def _is_placed(self, start: int) -> bool:
        """Tells whether a word stands where values stand: `in norway`, `country norway`."""
        if start == 0:
            return False
        return self.tokens[start - 1].text in _PLACING or any(mention.end == start for mention in self.mentions)

    def _longest(self, found: list[Value]) -> list[Value]:
        """Keeps the longest, and of one place the value whose column is mentioned, else the first column's."""
        named = [item.column.name for item in self.mentions]
        kept: list[Value] = []

        def rank(item: Value) -> tuple[bool, bool]:
            return item.column not in named, item.value != self._between(item.start, item.end)

        for item in sorted(found, key=lambda v: (v.start - v.end, *rank(v), v.start)):
            if not any(item.start < other.end and other.start < item.end for other in kept):
                kept.append(item)
                self.take(*range(item.start, item.end))
                alike = [v for v in found if (v.start, v.end) == (item.start, item.end) and rank(v) == rank(item)]
                if len({(v.column, v.value) for v in alike}) > 1:
                    self.unclear.append(" or ".join(f"{v.column} {v.value}" for v in alike[:2]))
        return sorted(kept, key=lambda value: value.start)

    def _may_be_value(self, start: int, end: int) -> bool:
        if any(mention.start < end and start < mention.end and mention.whole for mention in self.mentions):
            return False
        if end - start > 1:
            return not self.tokens[start].quoted
        token = self.tokens[start]
        if token.stop and token.text[:1] != ".":
            if any(mention.end == start for mention in self.mentions):
                return True  # `kind other`
            return token.raw.strip(".,;:!?()").isupper() and len(token.text) > 1
        return number(token) is None or token.quoted

    def _between(self, start: int, end: int) -> str:
        text = self.clause[self.tokens[start].start : self.tokens[end - 1].end]
        return text.lstrip("([{'\"“‘*`<").rstrip(".,;:!?()[]{}'\"“”‘’*`<>").removesuffix("'s").removesuffix("’s")  # noqa: RUF001


def _portions(words: Sequence[str]) -> Iterator[str]:
    """Yields words as SQL literals, as many at a time as one statement takes."""
    portion = ""
    for word in map(literal, words):
        if len(portion) + len(word) > MAX_LOOKUP_CHARS:
            yield portion
            portion = ""
        portion += f", {word}" if portion else word
    if portion:
        yield portion
