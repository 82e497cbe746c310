"""Questions made from the structure of documents: headings, definitions, conditions, and words of sentences.

Each names what an answering passage has to hold. Questions without an answer are made too: of words that other
documents have, of invented names, of words that are there but nowhere together.
"""

from __future__ import annotations

import functools
import random
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from tests.evaluation.corpora import Corpus

HELD_OUT = 20261121  # the seed that is reported; thresholds were chosen with others
REWORDED = "synonym"
UNANSWERABLE = frozenset({"foreign", "invented", "scattered"})
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z])|\n\s*\n|\n\s*(?=[-*+•#]|\d+\.)")
_WORD = re.compile(r"[A-Za-z][A-Za-z]{3,}")
_COMMON = frozenset({
    "this", "that", "these", "those", "there", "their", "they", "them", "then", "than", "with", "without", "from",
    "into", "onto", "over", "under", "about", "above", "below", "between", "through", "when", "where", "which",
    "while", "what", "will", "would", "should", "could", "must", "have", "been", "being", "does", "done", "each",
    "other", "some", "such", "same", "only", "also", "more", "most", "very", "much", "many", "like", "just", "even",
    "used", "using", "uses", "make", "made", "makes", "because", "since", "before", "after", "here", "your", "yours",
    "both", "either", "neither", "whether", "however", "therefore", "thus",
})  # fmt: skip
_DEFINITION = re.compile(r"^(?:An? |The )?([A-Za-z][\w\- ]{4,45}?) (is|are) (?:an? |the )[a-z].{30,}$")
_CONDITION = re.compile(r"^(?:If|When) ([a-z][^,.:;()]{20,100}), (?:then )?.{20,}$")
_NO_SUBJECT = re.compile(r"(?:If|When|While|For|In|On|At|As|By|This|These|That|Note|There|What|Since|With)\b")
_VERB = re.compile(
    r"^(?:An? |The |This )?([A-Za-z][\w\- ]{4,45}?) (return|raise|require|allow|support|provide|represent|accept)s "
    r"[a-z].{20,}$"
)
_HEADING = re.compile(r"^(?:#{1,6} +(?P<atx>.+?) *#*|(?P<under>[^\n]+)\n(?:[=\-~^*]{4,}))$", re.MULTILINE)
# Plain English for plain English, to see what another choice of words costs.
_SYNONYMS = {
    "raise": "throw", "raises": "throws", "raised": "thrown", "create": "build", "created": "built", "delete": "erase",
    "deleted": "erased", "remove": "drop", "removed": "dropped", "allow": "permit", "allowed": "permitted",
    "error": "failure", "errors": "failures", "begin": "start", "begins": "starts", "argument": "parameter",
    "arguments": "parameters", "function": "routine", "functions": "routines", "required": "needed",
    "requires": "needs", "specified": "chosen", "specify": "choose", "contains": "holds", "contain": "hold",
    "returned": "yielded", "returns": "yields", "optional": "voluntary", "invoked": "triggered", "called": "invoked",
    "defined": "declared", "equal": "identical", "database": "store", "table": "relation", "column": "field",
    "supported": "available", "support": "backing", "library": "package", "package": "library", "method": "procedure",
    "version": "release", "object": "item", "value": "quantity", "default": "preset", "string": "text",
}  # fmt: skip
_SYLLABLES = ("vel", "mor", "tran", "dol", "ux", "kar", "ith", "zon", "pre", "lim", "bas", "quo", "fen", "ral", "ost")


@dataclass(frozen=True)
class Question:
    """A question to one corpus.

    Args:
        kind: how it was made.
        text: as a user would send it.
        gold: what the passage that answers it holds, in single spaces; None if nothing answers it.
    """

    kind: str
    text: str
    gold: str | None


def flat(text: str) -> str:
    """Returns text in single spaces."""
    return " ".join(text.split())


def answerable(corpus: Corpus, seed: int, each: int) -> list[Question]:
    """Returns up to `each` questions of every kind that the corpus answers."""
    chance = random.Random(f"{corpus.name} {seed}")
    sentences = _sentences(corpus)
    vocabulary = sorted({word for sentence in sentences for word in _content(sentence)})
    makers: dict[str, Callable[[], Iterable[Question]]] = {
        "heading": lambda: _of_headings(corpus),
        "definition": lambda: _matching(
            sentences, _DEFINITION, lambda found: f"What {found[2]} {_article(found[1])}{found[1]}?", "definition"
        ),
        "condition": lambda: _matching(
            sentences, _CONDITION, lambda found: f"What happens when {found[1]}?", "condition"
        ),
        "verb": lambda: _matching(sentences, _VERB, lambda found: f"What does the {found[1]} {found[2]}?", "verb"),
        "words": lambda: (_of_words(sentence, chance, ()) for sentence in sentences),
        REWORDED: lambda: _with_synonyms(_of_words(sentence, chance, ()) for sentence in sentences),
        "noise": lambda: (_of_words(sentence, chance, (chance.choice(vocabulary),)) for sentence in sentences),
    }
    questions: list[Question] = []
    for make in makers.values():
        made = [question for question in make() if len(_content(question.text)) > 0]
        questions += chance.sample(made, min(each, len(made)))
    return questions


def unanswerable(corpus: Corpus, others: Sequence[Corpus], seed: int, each: int) -> list[Question]:
    """Returns up to `each` questions of every kind that the corpus does not answer."""
    chance = random.Random(f"un {corpus.name} {seed}")
    own = " ".join(corpus.documents.values()).lower()
    foreign = [
        Question("foreign", question.text, None)
        for other in others
        for question in answerable(other, seed, 4 * each)
        if sum(word.lower()[:6] not in own for word in _content(question.text)) >= 2
    ]
    natural = [q for q in answerable(corpus, seed + 1, 2 * each) if q.kind not in {"noise", REWORDED}]
    invented = [Question("invented", _with_invented(q.text, chance), None) for q in natural]
    return [
        *chance.sample(foreign, min(each, len(foreign))),
        *chance.sample(invented, min(each, len(invented))),
        *_scattered(corpus, chance, each),
    ]


@functools.cache
def _sentences(corpus: Corpus) -> list[str]:
    found = [flat(piece) for text in corpus.documents.values() for piece in _SENTENCE.split(text)]
    return sorted({piece for piece in found if 60 <= len(piece) <= 300 and _is_prose(piece)})


def _is_prose(sentence: str) -> bool:
    letters = sum(char.isalpha() or char == " " for char in sentence)
    return letters > 0.9 * len(sentence) and sentence[0].isupper() and sentence.endswith(".") and "::=" not in sentence


def _content(text: str) -> list[str]:
    return [word for word in _WORD.findall(text) if word.lower() not in _COMMON]


def _article(subject: str) -> str:
    return "" if subject.endswith("s") else "the "


def _matching(
    sentences: Sequence[str], pattern: re.Pattern[str], ask: Callable[[re.Match[str]], str], kind: str
) -> Iterable[Question]:
    for sentence in sentences:
        found = pattern.match(sentence)
        if found and len(_content(found[1])) >= 2 and not _NO_SUBJECT.match(found[1]):
            yield Question(kind, ask(found), sentence)


def _of_headings(corpus: Corpus) -> Iterable[Question]:
    titles = [
        flat(match["atx"] or match["under"]) for text in corpus.documents.values() for match in _HEADING.finditer(text)
    ]
    for title in sorted(set(titles)):
        if titles.count(title) == 1 and len(_content(title)) >= 2 and len(title) < 80:
            yield Question("heading", f"What do the documents say about {title}?", title)


def _of_words(sentence: str, chance: random.Random, extra: Sequence[str]) -> Question:
    words = list(dict.fromkeys(_content(sentence)))
    kept = sorted(chance.sample(range(len(words)), min(5, len(words))))
    asked = [words[index].lower() for index in kept] + list(extra)
    return Question("noise" if extra else "words", f"What about {' '.join(asked)}?", sentence)


def _with_synonyms(questions: Iterable[Question]) -> Iterable[Question]:
    """Yields the questions in which a word has a synonym, the first such one replaced by it."""
    for question in questions:
        words = question.text.rstrip("?").split()
        known = next((word for word in words if word in _SYNONYMS), None)
        if known is not None:
            text = " ".join(_SYNONYMS[word] if word == known else word for word in words)
            yield Question(REWORDED, f"{text}?", question.gold)


def _with_invented(text: str, chance: random.Random) -> str:
    name = "".join(chance.sample(_SYLLABLES, 3))
    longest = max(_content(text), key=len)
    return text.replace(longest, name.capitalize() if chance.random() < 0.5 else name)


def _scattered(corpus: Corpus, chance: random.Random, count: int) -> Iterable[Question]:
    """Half the words from one document, half from another, which no paragraph has together."""
    sentences = _sentences(corpus)
    for _ in range(count):
        first, second = (chance.sample(_content(chance.choice(sentences)), 3) for _ in range(2))
        yield Question("scattered", f"What about {' '.join(word.lower() for word in (*first, *second))}?", None)
