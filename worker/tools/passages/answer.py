"""What a passage says to a question, in its own sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from worker.tools.passages.prose import prose
from worker.tools.passages.ranking import ENOUGH, Found
from worker.tools.passages.splitting import sentences

MAX_QUOTE = 400  # characters
_QUOTED = 3  # sentences of an answer
_SHARE = 0.5  # of what a passage holds of the question: what a sentence has to hold
_WORD = re.compile(r"[^\W_]+")
_STEM = 5  # letters that words of one stem share, near enough to choose among sentences


def quotes(passages: Sequence[Found], weights: Mapping[str, float]) -> list[tuple[int, str]]:
    """Returns what answers a question, at most three sentences, each with its passage's number from 1.

    A passage that answers holds enough of the question itself, and its sentence, with the headings above it, at least
    half of that. If none does, the first one is quoted all the same: its words stand in several sentences.
    """
    said = ((number, passage, best_sentence(passage, weights)) for number, passage in enumerate(passages, 1))
    good = [(number, sentence) for number, passage, sentence in said if _answers(passage, sentence, weights)]
    return good[:_QUOTED] or [(1, best_sentence(passages[0], weights))]


def best_sentence(passage: Found, weights: Mapping[str, float]) -> str:
    """Returns the sentence of a passage that holds most of the question, exactly as it stands there."""
    stretches = prose(passage.text) or [(0, len(passage.text))]
    spans = [span for stretch in stretches for span in sentences(passage.text, *stretch)]
    start, end = max(spans, key=lambda span: (_worth(passage.text[slice(*span)], weights), -span[0]))
    return passage.text[start:end][:MAX_QUOTE].rstrip()


def _answers(passage: Found, sentence: str, weights: Mapping[str, float]) -> bool:
    held = {word: weights[word] for word in passage.terms if word in weights}
    enough = _SHARE * sum(held.values())
    return passage.coverage >= ENOUGH and _worth(f"{passage.heading} {sentence}", held) >= enough


def _worth(text: str, weights: Mapping[str, float]) -> float:
    here = set(_stems(text))
    worth = sum(weight for word, weight in weights.items() if here.issuperset(_stems(word)))
    return worth if len(_WORD.findall(text)) > 3 else worth / 2  # noqa: PLR2004 - a heading says little by itself


def _stems(text: str) -> Iterable[str]:
    return (word.lower()[:_STEM] for word in _WORD.findall(text))
