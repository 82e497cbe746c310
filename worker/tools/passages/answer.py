"""What a passage says to a question, in its own sentences."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from worker.tools.passages.ranking import Found
from worker.tools.passages.splitting import Span, sentences

MAX_QUOTE = 400  # characters
_WORD = re.compile(r"[^\W_]+")
_STEM = 5  # letters that words of one stem share, near enough to choose among sentences


def best_sentence(passage: Found, weights: Mapping[str, float]) -> str:
    """Returns the sentence of a passage that holds most of the question, exactly as it stands there."""
    spans = list(sentences(passage.text, 0, len(passage.text)))
    start, end = max(spans, key=lambda span: (_worth(passage.text, span, weights), -span[0]))
    return passage.text[start:end][:MAX_QUOTE].rstrip()


def _worth(text: str, span: Span, weights: Mapping[str, float]) -> float:
    here = set(_stems(text[slice(*span)]))
    worth = sum(weight for word, weight in weights.items() if here.issuperset(_stems(word)))
    words = len(_WORD.findall(text[slice(*span)]))
    return worth if words > 3 else worth / 2  # noqa: PLR2004 - a heading says little by itself


def _stems(text: str) -> Iterable[str]:
    return (word.lower()[:_STEM] for word in _WORD.findall(text))
