"""Runs the demo: a fleet, three users, their runs at the same time, and what came of it."""

from __future__ import annotations

import secrets
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lanewise import render
from lanewise.board import Board
from lanewise.client import Client
from lanewise.demo import documents, report
from lanewise.demo.fleet import DemoError, Fleet, fleet
from lanewise.demo.lanes import Job, Lanes, Trip
from lanewise.stream import Event
from shared.errors import LanewiseError

USERS = ("ada", "grace", "linus")
SMALL_RUNS = 30
QUESTION = "Which 5 countries have the most certificates, and from which project was certifi extracted?"
CANCEL_AT = 0.02  # of the countdown's progress
PLAIN_WIDTH = 120
INTERRUPTED = 130


def main() -> int:
    """Runs the demo; returns 0 if everything was as it has to be."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # stop the fleet in order then, too
    began = time.monotonic()
    console.print("[bold]Lanewise[/] runs agents for many users at once, each user in a lane of their own.")
    console.print("[dim]All of this happens now, on this machine, in real processes.[/]\n")
    try:
        with console.status("starting a fleet: Redis, Postgres, api, worker"), ExitStack() as starting:
            running = starting.enter_context(fleet())
            stack = starting.pop_all()
        with stack:
            show(console, running)
            console.print()
            stopping = time.monotonic()
        stopped, whole = (render.span(time.monotonic() - since) for since in (stopping, began))
        console.print(f"[dim]stopped everything in {stopped}; the whole demo took {whole}[/]")
        report.next_steps(console)
    except (LanewiseError, OSError) as error:
        errors = Console(stderr=True, highlight=False, soft_wrap=True)
        errors.print(f"\nthe demo failed: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\ninterrupted; everything was stopped")
        return INTERRUPTED
    return 0


def show(console: Console, running: Fleet) -> None:
    """Lets three users work on a running fleet, and prints what happens."""
    console.print(f"[green]✓[/] a fleet is ready on {running.url}, {render.span(running.started_s)} after its start")
    with ExitStack() as stack:
        clients = {user: stack.enter_context(Client(running.url, running.token(user))) for user in USERS}
        canaries = {user: secrets.token_hex(16) for user in USERS}
        upload(console, clients, canaries)
        lanes = stack.enter_context(closing(Lanes(clients)))
        console.print()
        trips = work(console, lanes)
        report.outcomes(console, trips)
        report.results(console, lanes, trips)
        report.endings(console, trips)
        report.heading(console, "How fast")
        report.latencies(console, measure(console, lanes))
        report.proofs(console, lanes, canaries)


def upload(console: Console, clients: Mapping[str, Client], canaries: Mapping[str, str]) -> None:
    """Gives every user documents of their own."""
    own = {
        "ada": [documents.characters(), documents.categories()],
        "grace": [documents.certificates(), documents.about_certificates()],
        "linus": [documents.documentation()],
    }
    grid = Table.grid(padding=(0, 2, 0, 0))
    for user, client in clients.items():
        for document in (*own[user], documents.secret(canaries[user])):
            client.put_document(document.name, document.content)
            size = Text(f"{document.rows:,} {document.unit}{'s' * (document.rows > 1)}", justify="right")
            grid.add_row("[green]✓[/]", user, document.name, size, Text(document.origin, "dim"))
    console.print(grid)


def jobs() -> dict[str, list[Job]]:
    """Returns who wants what."""
    secret = Job("secret.csv", "data", {"document": "secret.csv", "sql": "SELECT secret FROM data"})
    text = "\n".join(text for _, text in documents.documentation_texts())
    return {
        "ada": [
            Job("profile of unicode.csv", "data", {"document": "unicode.csv"}),
            Job("letters by alphabet", "data", _letters(), show=True),
            Job("kinds of characters", "data", _kinds()),
            secret,
        ],
        "grace": [
            Job("a question in plain words", "supervisor", {"request": QUESTION}, show=True),
            Job("first to expire", "data", _expiring()),
            Job("a typing error", "data", _mistake(), expect="failed"),
            secret,
        ],
        "linus": [
            Job("countdown from 60", "countdown", {"seconds": 60}, expect="cancelled"),
            Job("our documentation", "data", _docs(), show=True),
            Job("countdown from 2", "countdown", {"seconds": 2}),
            Job("count our words", "count", {"text": text[:100_000]}),
            secret,
        ],
    }


def work(console: Console, lanes: Lanes) -> list[Trip]:
    """Submits everything at once and shows it live; cancels the long countdown in flight."""
    trips = lanes.submit(jobs())
    count = f"{len(trips)} runs of {len(USERS)} users at the same time, at most 3 of each user in progress"
    console.print(f"[bold]{count}[/]")
    if console.is_terminal:
        with Board(console, {trip.view.id: trip.view for trip in trips}):
            lanes.follow(trips, _canceller(lanes))
    else:
        lanes.follow(trips, _canceller(lanes, _plain(console)))
    for trip in trips:
        trip.run = lanes.clients[trip.user].run(trip.view.id)
    return trips


def measure(console: Console, lanes: Lanes) -> list[Trip]:
    """Submits small runs, each after the end of the one before."""
    trips = []
    with console.status(f"{SMALL_RUNS} small runs, one after the other"):
        for number in range(SMALL_RUNS):
            job = Job(f"small run {number}", "count", {"text": "one two three"})
            trip = lanes.submit({USERS[0]: [job]})[0]
            lanes.follow([trip], lambda _trip, _event: None)
            if trip.view.status != job.expect:
                raise DemoError(f"{job.title} is {trip.view.status}: {trip.view.note}")
            trips.append(trip)
    return trips


def _canceller(
    lanes: Lanes, then: Callable[[Trip, Event], None] = lambda _trip, _event: None
) -> Callable[[Trip, Event], None]:
    def tell(trip: Trip, event: Event) -> None:
        if trip.job.expect == "cancelled" and trip.cancel_at is None and trip.view.fraction >= CANCEL_AT:
            trip.cancel_at = time.monotonic()
            lanes.clients[trip.user].cancel(trip.view.id)
        then(trip, event)

    return tell


def _plain(console: Console) -> Callable[[Trip, Event], None]:
    """Returns what prints a line for each change that matters, for those who read this in a file."""

    def tell(trip: Trip, event: Event) -> None:
        if event["type"] in ("run_started", "agent_thinking") or trip.view.ended:
            words = trip.view.note if trip.view.note != trip.view.status else ""
            console.print(Text(f"{trip.user:<6} {trip.job.title:<32} {trip.view.status:<10} {words}".rstrip()))

    return tell


def _letters() -> dict[str, object]:
    sql = (
        "SELECT lower(first_word) AS alphabet, count(*) AS letters FROM data WHERE category LIKE 'L%' "
        "GROUP BY ALL ORDER BY letters DESC LIMIT 12"
    )
    chart = {"kind": "bar", "x": "alphabet", "y": "letters", "title": "Letters in Unicode, by alphabet"}
    return {"document": "unicode.csv", "sql": sql, "chart": chart}


def _kinds() -> dict[str, object]:
    sql = (
        "SELECT meaning, count(*) AS characters FROM data JOIN categories USING (category) "
        "GROUP BY ALL ORDER BY characters DESC"
    )
    return {"document": "unicode.csv", "join": ["categories.csv"], "sql": sql}


def _expiring() -> dict[str, object]:
    sql = "SELECT name, valid_until FROM data ORDER BY valid_until, name LIMIT 8"
    return {"document": "certificates.jsonl", "sql": sql}


def _mistake() -> dict[str, object]:
    return {"document": "certificates.jsonl", "sql": "SELECT contry, count(*) FROM data GROUP BY ALL"}


def _docs() -> dict[str, object]:
    sql = (
        "SELECT file, sum(words) AS words, count(*) FILTER (kind = 'heading') AS headings "
        "FROM data GROUP BY file ORDER BY words DESC"
    )
    return {"document": "docs.csv", "sql": sql}


if __name__ == "__main__":
    sys.exit(main())
