"""`python -m tests.evaluation.triage [SEED] [-v]`: what triage answers right, refuses, answers wrongly."""

# ruff: noqa: T201 - a command that prints
from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

from tests.evaluation.pitfalls import PITFALLS, Clerk
from tests.evaluation.requests import Collection, Figures, Request, collections, requests
from worker.questions.library import Library, Prose, TableHead, header
from worker.questions.reading import TableLook
from worker.questions.routing import SURE_ENOUGH, Router, Routing
from worker.tools.tables import Source, Tables, format_of

HELD_OUT = 20261121  # what is reported; the rules were made with other seeds
EACH = 5


@dataclass
class Tally:
    """What came of the requests of one kind."""

    asked: int = 0
    routed: int = 0
    figures: int = 0
    failures: list[str] = field(default_factory=list)


class Desk:
    """One user's things, as triage sees them."""

    def __init__(self, collection: Collection) -> None:
        table = collection.table
        kind = format_of(table.name, "")
        self.tables = Tables([Source(table.name, table.content, kind)])
        loaded = self.tables.tables[0]
        self.look = TableLook(table.name, loaded.columns, loaded.rows, self.query)
        head = TableHead(table.name, header(table.name, "", table.content) or ())
        prose = tuple(Prose(name, text) for name, text in sorted(collection.corpus.documents.items()))
        self.library = Library((head,), prose)

    def query(self, sql: str) -> list[list[Any]]:
        return self.tables.query(sql).rows

    def route(self, text: str) -> Routing:
        return Router(self.library, lambda _: self.look).route(text)


def measure(desk: Desk, asked: Sequence[Request]) -> dict[str, Tally]:
    """Returns what came of the requests, by kind."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for request in asked:
        tally = tallies[request.kind]
        tally.asked += 1
        routing = desk.route(request.text)
        sure = [route for route in routing.routes if route.confidence >= SURE_ENOUGH]
        routed = {route.agent for route in sure} == request.agents
        # Nothing fits: then triage has to say which words it could not place.
        tally.routed += routed and (bool(request.agents) or bool(routing.unplaced))
        sql = next((route.input.get("sql") for route in sure if route.agent == "data"), None)
        right = request.figures is None or (sql is not None and equal(desk.query(sql), request.figures))
        tally.figures += routed and right
        if not (routed and right):
            tally.failures.append(f"{request.text} -> {routing.summary} {sql or ''}")
    return tallies


def equal(rows: list[list[Any]], figures: Figures) -> bool:
    """Tells whether a result has just these figures: by group, or in this order."""
    if isinstance(figures, dict):
        found = {row[0]: row[-1] for row in rows}
        return found.keys() == figures.keys() and all(_close(found[key], figures[key]) for key in figures)
    return len(rows) == len(figures) and all(_close(row[-1], one) for row, one in zip(rows, figures, strict=True))


def _close(one: Any, other: Any) -> bool:
    numbers = isinstance(one, int | float) and isinstance(other, int | float)
    return math.isclose(one, other, rel_tol=1e-9) if numbers else one == other


def main(seed: int, *, verbose: bool) -> None:
    """Prints a table."""
    every = collections()
    print("table                kind       asked  routed  figures")
    for collection in every:
        desk = Desk(collection)
        asked = requests(collection, [other for other in every if other is not collection], seed, EACH)
        started = perf_counter()
        tallies = measure(desk, asked)
        each_ms = 1000 * (perf_counter() - started) / len(asked)
        for kind, tally in tallies.items():
            shares = f"{tally.routed / tally.asked:6.0%}  {tally.figures / tally.asked:7.0%}"
            print(f"{collection.table.name:20} {kind:10} {tally.asked:5} {shares}")
            if verbose:
                print(*(f"    {text}" for text in tally.failures), sep="\n")
        print(f"{collection.table.name:20} {each_ms:.0f} ms a request")
    _pitfalls(verbose=verbose)


def _pitfalls(*, verbose: bool) -> None:
    clerk, came = Clerk(), defaultdict[str, list[str]](list)
    for pitfall in PITFALLS:
        outcome, said = clerk.ask(pitfall)
        came[outcome].append(f"{pitfall.text} -> {said}")
    counts = ", ".join(f"{len(came[outcome])} {outcome}" for outcome in ("right", "refused", "wrong"))
    print(f"pitfalls: {len(PITFALLS)} asked, {counts}")
    if verbose:
        print(*(f"    {text}" for text in came["wrong"]), sep="\n")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(next((a for a in arguments if a.isdigit()), HELD_OUT)), verbose="-v" in arguments)
