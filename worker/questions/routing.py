"""`Routing`: which agent shall do which part of a request, with what input, why, and how sure that is.

Everything here is a rule that can be told: which columns and values of which table the words name, and how many of
the words stand together in a passage of which document.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from shared.errors import LanewiseError
from worker.questions.ask import Ask
from worker.questions.grammar import Parsed, parse
from worker.questions.library import Library, TableHead
from worker.questions.reading import Reading, TableLook
from worker.questions.words import clauses, enumerate_words, name_words, narrows, same, tokens

SURE_ENOUGH = 0.35  # below it a route is a guess that is told, not followed
WORTH_TELLING = 0.15
SURELY, ASSUMED = 0.97, 0.7  # the second where the table does not say that its rows are called so
FOLLOWING = 0.9  # what goes on from the last request
MAX_TABLES = 4  # opened for one request
MAX_DATA_ROUTES = 2
MAX_CLAUSES = 8
ONE_IS_FEW = 1.5
ENOUGH_WORDS = 0.6  # of a question, that have to stand together
_FOLLOWS = re.compile(
    r"^\s*(?:and|now|what about|how about|(?:and\s+)?the same|same|instead|only|just)\b[\s,:]*(?:but\s+)?",
    re.IGNORECASE,
)
_READING = frozenset({
    "why", "explain", "say", "says", "said", "according", "mention", "mentions", "mentioned", "quote", "cite",
    "passage", "passages", "documentation", "docs", "text", "describe", "described", "policy", "recommend",
    "recommended",
})  # fmt: skip
_PROFILING = frozenset({
    "describe", "profile", "overview", "columns", "summary", "summarise", "summarize", "look", "inspect", "contain",
    "contains",
})  # fmt: skip

# What only tables are asked with; two of them are hardly a question to a text.
_TABLE_CUES = frozenset({
    "number", "count", "counts", "per", "each", "every", "by", "top", "most", "fewest", "least", "largest",
    "biggest", "smallest", "highest", "lowest", "average", "median", "total", "sum", "share", "percentage",
    "proportion", "percent", "distribution", "distinct", "different", "unique", "maximum", "minimum", "frequent",
    "yearly", "monthly", "weekly", "daily", "quarterly",
})  # fmt: skip
_RANKS = frozenset({"top", "most", "fewest", "largest", "smallest", "highest", "lowest"})
_SURE_CUES = frozenset({"share", "percentage", "proportion", "percent", "median", "distribution", "frequent"})

OpenTable = Callable[[str], TableLook]


@dataclass(frozen=True)
class Route:
    """An agent, its input, and why."""

    agent: str
    confidence: float
    reason: str
    input: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Returns it as triage's output has it."""
        return {"agent": self.agent, "confidence": round(self.confidence, 2), "reason": self.reason,
                "input": dict(self.input)}  # fmt: skip


@dataclass(frozen=True)
class Routing:
    """What became of a request; `memory` is for the thread's next one."""

    request: str
    routes: tuple[Route, ...]
    unplaced: tuple[str, ...] = ()
    memory: Mapping[str, Any] | None = None

    @property
    def summary(self) -> str:
        """One line for a person."""
        sure = [route for route in self.routes if route.confidence >= SURE_ENOUGH]
        parts = [f"{route.agent} ({route.confidence:.0%}): {route.reason}" for route in sure]
        if not sure:
            parts = ["I found nothing in your tables and documents that answers this"]
            parts += [f"the nearest is {route.agent}: {route.reason}" for route in self.routes[:1]]
        if self.unplaced:
            parts.append(f"not placed: {enumerate_words(dict.fromkeys(self.unplaced))}")
        return "; ".join(parts)


@dataclass
class _Fit:
    """How well a clause fits a table."""

    look: TableLook
    parsed: Parsed
    confidence: float
    follows: Ask | None = None

    @property
    def ask(self) -> Ask | None:
        return self.follows or self.parsed.ask


@dataclass
class Router:
    """Routes requests of one user.

    Args:
        library: what the user has.
        open_table: opens a table by name; raises `LanewiseError` for one that is none.
        memory: of the thread's last request.
        tell: hears what is looked at.
    """

    library: Library
    open_table: OpenTable
    memory: Mapping[str, Any] | None = None
    tell: Callable[[str], None] = lambda _: None
    _looks: dict[str, TableLook | None] = field(default_factory=dict)

    def route(self, request: str) -> Routing:
        """Returns the routes, best first."""
        data: list[Route] = []
        questions: list[tuple[str, float, str]] = []
        unplaced: list[str] = []
        guesses: list[Route] = []
        memory = dict(self.memory or {})
        parts = clauses(request)
        asked_for = self._joined(parts[: 2 * MAX_CLAUSES]) + parts[2 * MAX_CLAUSES :]
        for clause in asked_for[:MAX_CLAUSES]:
            fit, asked = self._fit(clause), self._question(clause)
            if fit and fit.confidence >= SURE_ENOUGH and fit.confidence >= asked[0] and len(data) < MAX_DATA_ROUTES:
                data.append(self._data_route(fit))
                unplaced += fit.parsed.unplaced
                memory |= {"table": fit.look.document, "ask": fit.ask.to_json() if fit.ask else None}
            elif asked[0] >= SURE_ENOUGH:
                questions.append((clause, asked[0], asked[1]))
                unplaced += asked[2]
            else:
                content = [token.text for token in tokens(clause) if not token.stop]
                unplaced += [w for w in asked[2] if not fit or w in fit.parsed.unplaced] or asked[2] or content
                guesses += [self._data_route(fit)] if fit and fit.confidence >= WORTH_TELLING else []
                questions += [(clause, asked[0], asked[1])] if asked[0] >= WORTH_TELLING else []
        unplaced += [f"“{clause}”" for clause in asked_for[MAX_CLAUSES:]]
        routes = sorted([*(data or guesses[:1]), *self._research_route(questions)], key=lambda route: -route.confidence)
        return Routing(request, tuple(routes), tuple(unplaced), memory or None)

    def _joined(self, parts: list[str]) -> list[str]:
        """Puts what only narrows a question to a table back to it: `Total by region. Only in Oslo`."""
        joined: list[str] = []
        for part in parts:
            if joined and narrows(part) and self._question(part)[0] < SURE_ENOUGH and self._answers(joined[-1]):
                joined[-1] += f", {part}"
            else:
                joined.append(part)
        return joined

    def _answers(self, clause: str) -> bool:
        fit = self._fit(clause)
        return fit is not None and fit.confidence >= SURE_ENOUGH

    def _research_route(self, questions: list[tuple[str, float, str]]) -> list[Route]:
        sure = [item for item in questions if item[1] >= SURE_ENOUGH] or questions[:1]
        if not sure:
            return []
        question = " ".join(text if text[-1:] in ".?!" else f"{text}?" for text, *_ in sure)
        reason = "; ".join(dict.fromkeys(reason for *_, reason in sure))
        return [Route("research", max(item[1] for item in sure), reason, {"question": question})]

    def _question(self, clause: str) -> tuple[float, str, list[str]]:
        """Returns how sure a clause is for the documents of prose, why, and which words they do not have."""
        cues = _cues(clause)
        words = [token for token in tokens(clause) if not token.stop]
        wanted = [token for token in words if token.text not in _READING and token.text not in cues] or words
        if not self.library.prose:
            return 0.0, "there are no documents to read", [token.text for token in wanted]
        name, found = self.library.best_passage(wanted)
        missing = [token.text for token in wanted if token.text not in found]
        # A word that stands nowhere at all counts double against it; one word alone says little.
        nowhere = len({word for word in missing if not self.library.has(word)})
        count = len({token.text for token in wanted})
        share = len(found) / max(count + nowhere, ONE_IS_FEW)
        unseen = [prose.name for prose in self.library.prose if prose.text is None]
        reads = any(token.text in _READING for token in tokens(clause))
        confidence = 0.15 + 0.7 * share + 0.1 * reads if share >= ENOUGH_WORDS else 0.3 * share
        if cues and not reads:  # texts seldom hold figures that have to be worked out
            confidence *= 0.4 if len(cues) > 1 else 0.75 if count > 1 else 0.5
        if unseen and confidence < SURE_ENOUGH:
            return 0.4, f"{enumerate_words(unseen[:3])} may say it; only the research agent can look inside", missing
        stand = "stands" if len(found) == 1 else "stand together"
        reason = f"{enumerate_words(sorted(found))} {stand} in {name}" if found else "no document has these words"
        if missing and found:
            reason += f", {enumerate_words(missing)} not"
        return confidence, reason, missing

    def _fit(self, clause: str) -> _Fit | None:
        """Returns the table that fits a clause best, None if there is none at all."""
        if follow := self._follow_up(clause):
            return follow
        fits = [fit for head in self._candidates(clause) if (fit := self._fit_to(clause, head.name))]
        return max(fits, key=lambda fit: fit.confidence, default=None)

    def _fit_to(self, clause: str, name: str) -> _Fit | None:
        look = self._look(name)
        if look is None:
            return None
        try:
            parsed = parse(Reading(clause, look))
            if parsed.ask:
                look.query(parsed.ask.sql())
        except LanewiseError as error:
            self.tell(f"{name} cannot be asked this: {error.message}")
            return None
        return _Fit(look, parsed, _confidence(clause, parsed))

    def _follow_up(self, clause: str) -> _Fit | None:
        """`and by month?` goes on from the last table and what was asked of it."""
        before = self.memory or {}
        match = _FOLLOWS.match(clause)
        if not match or not before.get("ask") or before.get("table") not in {head.name for head in self.library.tables}:
            return None
        look = self._look(before["table"])
        if look is None:
            return None
        parsed = parse(Reading(clause[match.end() :], look), elliptic=True)
        if parsed.ask is None or parsed.unplaced:
            return None
        return _Fit(look, parsed, FOLLOWING, Ask.from_json(before["ask"]).followed_by(parsed.ask))

    def _candidates(self, clause: str) -> list[TableHead]:
        """Returns the tables worth opening, those first whose name and columns the clause names."""
        words = [token.text for token in tokens(clause)]

        def named(head: TableHead) -> int:
            columns = [name_words(column) for column in head.columns] + [name_words(head.name)]
            whole = sum(all(any(same(word, part) for word in words) for part in parts) for parts in columns if parts)
            part = sum(any(same(word, part) for word in words for part in parts) for parts in columns)
            return 3 * whole + part + 10 * (head.name.lower() in words)

        scored = sorted(
            ((named(head), head) for head in self.library.tables), key=lambda item: (-item[0], item[1].name)
        )
        some = bool(scored) and scored[0][0] > 0 and all(head.columns for _, head in scored)
        return [head for score, head in scored if score > 0 or not some][:MAX_TABLES]

    def _look(self, name: str) -> TableLook | None:
        if name not in self._looks:
            self.tell(f"looking into {name}")
            try:
                self._looks[name] = self.open_table(name)
            except LanewiseError as error:
                self._looks[name] = None
                self.tell(f"{name} cannot be read as a table: {error.message}")
        return self._looks[name]

    def _data_route(self, fit: _Fit) -> Route:
        name, ask = fit.look.document, fit.ask
        notes = "; ".join(fit.parsed.notes)
        given: dict[str, Any] = {"document": name}
        if ask is None:
            reason = f"a profile of {name}" + (f", no more: {notes}" if notes else "")
            return Route("data", fit.confidence, reason, given)
        rows = fit.look.query(ask.sql())
        chart = ask.chart() if len(rows) > 1 and any(row[-1] is not None for row in rows) else None
        given |= {"sql": ask.sql()} | ({"chart": chart} if chart else {})
        after = " (as asked before)" if fit.follows else ""
        reason = f"{ask.words} in {name}{after}" + (f"; {notes}" if notes else "")
        return Route("data", fit.confidence, reason, given)


def _confidence(clause: str, parsed: Parsed) -> float:
    """Rises with the share of the words that the table explains; nothing of the table named: none."""
    words = {token.text for token in tokens(clause)}
    cued = bool(words & _READING)
    if parsed.ask is None:
        if parsed.named and words & _PROFILING:
            return 0.85
        return 0.3 * parsed.coverage if parsed.named or parsed.hits else 0.0
    if not parsed.hits and not parsed.named:
        return 0.0
    if not (parsed.ask.measures or parsed.ask.order) and parsed.coverage < ENOUGH_WORDS:
        return 0.3 * parsed.coverage  # a word that happens to be a value asks for nothing yet
    most = SURELY if not parsed.unplaced else ASSUMED
    return min(most, 0.2 + 0.65 * parsed.coverage + 0.1 * min(parsed.hits, 2) - 0.2 * cued)


def _cues(clause: str) -> set[str]:
    """Returns the words that tables are asked with; one that leaves no doubt counts as two."""
    words = [token.text for token in tokens(clause)]
    found = {word for word in words if word in _TABLE_CUES}
    found |= {"how many"} if re.search(r"\bhow (many|much)\b", clause, re.IGNORECASE) else set()
    sure = found & _SURE_CUES or (found & _RANKS and any(word.isdigit() or word in ("which", "with") for word in words))
    return found | ({"a sure one"} if sure else set())
