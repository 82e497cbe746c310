"""`python -m tests.evaluation [SEED]`: prints recall and false finds, by corpus and kind of question."""

# ruff: noqa: T201 - a command that prints
from __future__ import annotations

import sys
from contextlib import closing
from time import perf_counter

from shared.services import Services
from tests.evaluation.corpora import corpora
from tests.evaluation.measure import measure, research_tools, store_corpus, total
from tests.evaluation.questions import HELD_OUT, REWORDED, UNANSWERABLE, answerable, unanswerable
from tests.services import Servers

EACH = 12


def main(seed: int, *, verbose: bool) -> None:
    """Prints a table."""
    every = corpora()
    print("corpus     kind         asked  found  @1     @5")
    with Servers.start() as servers, servers.new_database() as name:
        settings = servers.settings(name)
        with closing(Services.open(settings)) as services:
            for corpus in every:
                store_corpus(services, corpus, corpus.name)
                others = [other for other in every if other is not corpus]
                with research_tools(services, settings, corpus.name) as tools:
                    started = perf_counter()
                    tools.call("deep_research", question="warm up")
                    made = perf_counter() - started
                    questions = [*answerable(corpus, seed, EACH), *unanswerable(corpus, others, seed, EACH)]
                    started = perf_counter()
                    tallies = measure(tools, questions)
                    each_ms = 1000 * (perf_counter() - started) / len(questions)
                sums = {"= answered": total(tallies[k] for k in tallies if k not in {REWORDED, *UNANSWERABLE}),
                        "= unanswered": total(tallies[k] for k in tallies if k in UNANSWERABLE)}  # fmt: skip
                for kind, tally in (tallies | sums).items():
                    shares = [f"{share / tally.asked:5.0%}" for share in (tally.found, tally.first, tally.among_five)]
                    print(f"{corpus.name:10} {kind:12} {tally.asked:5} {'  '.join(shares)}")
                    if verbose and not kind.startswith("="):
                        print(*(f"    {text}" for text in tally.failures), sep="\n")
                print(f"{corpus.name:10} indexed in {made:.1f} s, {each_ms:.0f} ms a question")


if __name__ == "__main__":
    arguments = sys.argv[1:]
    main(int(next((a for a in arguments if a.isdigit()), HELD_OUT)), verbose="-v" in arguments)
