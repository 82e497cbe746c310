"""The words of a request: tokens with their places, plurals, numbers, and which words say nothing by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

_TOKEN = re.compile(r'"[^"\n]{1,200}"|“[^”\n]{1,200}”|\S+')
_EDGES = ".,;:!?()[]{}'\"“”‘’*`<>"  # noqa: RUF001 - people's quotes
_NAME_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_]+")
_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?")
_ASKING = (
    r"(?:(?:from|in|to|at|by|for|with|on|of|under|since)\s+)?(?:what|which|whom|whose)|why|how|who|where|when|does|do|did"
    r"|is|are|can|could|may|must|should|will|explain|describe|summari[sz]e|tell|find|show|list|give|plot|draw|chart"
    r"|count|quote|cite"
)
_CLAUSE = re.compile(
    rf"(?:[.?!;]+\s+|\n+|,?\s+(?:and|then|but|also)\s+(?:also\s+|then\s+)?(?=(?:{_ASKING})\b))", re.IGNORECASE
)
_AUXILIARY = r"(?:is|are|was|were|do|does|did|has|have|had|can|could|may|must|should|will)"
_SUBJECT = r"(?:there|the|it|this|that|an?|my|our|we|they|i|you)"
# The beginning of what goes on from the part before it, and words that take something away from what was asked.
_CONTINUES = re.compile(
    rf"(?:(?:and|but|also)\s+)?(?:(?:who\s+)?{_AUXILIARY}\b(?!\s+{_SUBJECT}\b)|(?:where|when)\s+(?!{_AUXILIARY}\b)|whose\b"
    r"|(?:in|for|from|of|with|since|before|after|until|between|during|by|per|over|under|above|below|at|on)\s+"
    r"(?!what|which|whom|whose)|if\b|unless\b)",
    re.IGNORECASE,
)
_TAKES_AWAY = re.compile(
    r"\b(?:only|just|except\w*|without|exclu\w+|ignor\w+|omit\w*|leav\w+|skip\w*|drop\w*|remov\w+|restrict\w*"
    r"|limit\w*|filter\w*|not|no|never|but|apart|other than|minus|instead)\b",
    re.IGNORECASE,
)
SMALL_NUMBERS = {
    "one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10,
    "twelve": 12, "twenty": 20, "fifty": 50, "hundred": 100,
}  # fmt: skip
STOP_WORDS = frozenset({
    "a", "about", "all", "also", "am", "an", "and", "any", "are", "as", "at", "be", "been", "both", "but", "by",
    "can", "come", "could", "did", "do", "does", "doing", "each", "every", "for", "from", "get", "give", "gave",
    "given", "had", "has", "have", "having", "her", "here", "him", "his", "how", "i", "if", "in", "into", "is",
    "it", "its", "let", "list", "many", "may", "me", "might", "more", "much", "must", "my", "need", "no", "not",
    "of", "off", "on", "once", "only", "or", "other", "our", "out", "over", "own", "per", "please", "provide",
    "result", "same", "say", "says", "shall", "she", "should", "show", "so", "some", "such", "than", "that", "the",
    "their", "them", "then", "there", "these", "they", "this", "those", "through", "to", "too", "under", "up", "us",
    "using", "very", "want", "was", "we", "were", "what", "whats", "what's", "when", "where", "whether", "which",
    "while", "who", "whom", "whose", "why", "will", "with", "within", "would", "you", "your", "tell", "find",
    "explain", "describe", "know", "regarding", "according", "exist", "exists", "data", "table", "document",
    "documents", "file", "files", "question", "answer", "happen", "happens", "work", "works", "use", "used", "mean",
    "means",
})  # fmt: skip


_IRREGULAR = {"people": "person", "men": "man", "women": "woman", "children": "child"}


@dataclass(frozen=True)
class Token:
    """A word of a request: as written, in lower case without edges, and where it is."""

    raw: str
    text: str
    start: int
    end: int

    @property
    def quoted(self) -> bool:
        """Whether the user put it into quotation marks: then it is meant literally."""
        return self.raw[:1] in '"“'

    @property
    def stop(self) -> bool:
        """Whether it says nothing by itself."""
        return not self.quoted and (self.text in STOP_WORDS or not self.text)


def tokens(text: str) -> list[Token]:
    """Returns the words of a text; what stands in quotation marks is one."""
    found = []
    for match in _TOKEN.finditer(text):
        raw = match[0].lstrip("([{'‘*`<") if match[0][0] not in '"“' else match[0]  # noqa: RUF001
        bare = raw.strip(_EDGES).removesuffix("'s").removesuffix("’s")  # noqa: RUF001
        if bare:
            bare = f".{bare}" if raw.lstrip(_EDGES.replace(".", ""))[:1] == "." else bare  # `.txt`
            found.append(Token(raw, bare.lower(), match.start(), match.end()))
    return found


def clauses(request: str) -> list[str]:
    """Returns the parts of a request that ask for something by themselves."""
    parts = [part.strip(" ,") for part in _CLAUSE.split(request)]
    return [part for part in parts if part]


def narrows(part: str) -> bool:
    """Tells whether a part of a request may only take something away from what the part before it asks for."""
    return bool(_CONTINUES.match(part) or _TAKES_AWAY.search(part))


def singular(word: str) -> str:
    """Returns an English noun without its plural ending, by rule."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, instead in (("ies", "y"), ("sses", "ss"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + instead
    if word.endswith("s") and not word.endswith(("ss", "us", "is")) and len(word) > len("abs"):
        return word[:-1]
    return word


def same(one: str, other: str) -> bool:
    """Tells whether two words in lower case are one noun, singular or plural."""
    return one == other or singular(one) == singular(other) or one in (other + "s", other + "es") or other == one + "es"


def root(word: str) -> str:
    """Returns what the forms of a word begin with: `delet` of deletes, deleted, deleting."""
    word = singular(word)
    for ending in ("ations", "ation", "ings", "ing", "ed", "ion", "ment", "ly", "e", "y"):
        if word.endswith(ending) and len(word) - len(ending) > len("abc") - 1:
            word = word[: -len(ending)]
            break
    return word[:-1] if len(word) > len("abcd") and word[-1] == word[-2] and word[-1] not in "sl" else word


def name_words(name: str) -> list[str]:
    """Returns the words of a column's or a file's name: `validFrom`, `valid_from` and `valid-from` have two."""
    return [part.lower() for part in _NAME_PART.findall(name)]


def number(token: Token) -> float | int | None:
    """Returns the number that a token is (`1,200`, `3.5`, `five`), else None."""
    if token.text in SMALL_NUMBERS:
        return SMALL_NUMBERS[token.text]
    if not _NUMBER.fullmatch(token.text):
        return None
    text = token.text.replace(",", "")
    return float(text) if "." in text else int(text)


def enumerate_words(words: Iterable[str]) -> str:
    """Returns `a, b and c`."""
    *head, last = list(words) or [""]
    return f"{', '.join(head)} and {last}" if head else last
