"""What the demo prints when the runs have ended."""

from __future__ import annotations

import html
import json
import re
import statistics
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from lanewise import render
from lanewise.demo.fleet import DemoError
from lanewise.demo.lanes import Lanes, Trip

CHARTS = Path("artifacts", "demo")
TABLE_ROWS = 5


def heading(console: Console, text: str) -> None:
    """Prints the title of a part."""
    console.print(f"\n[bold]{text}[/]")


def outcomes(console: Console, trips: Sequence[Trip]) -> None:
    """Prints how each run went, with the times that a client measured.

    Raises:
        DemoError: one did not end as it has to.
    """
    heading(console, "How they went")
    table = Table(
        "", "run", "outcome", "first event after", "ended after", box=None, header_style="dim", pad_edge=False
    )
    for column in table.columns[3:]:
        column.justify = "right"
    user = ""
    for trip in trips:
        first = "" if trip.first_s is None else render.span(trip.first_s)
        name = "" if trip.user == user else trip.user
        state = render.status(trip.view.status)
        table.add_row(Text(name, "bold"), trip.job.title, state, first, render.span(trip.total_s))
        user = trip.user
    _print(console, table)
    for trip in trips:
        if trip.view.status != trip.job.expect:
            raise DemoError(
                f"{trip.user}'s '{trip.job.title}' is {trip.view.status}, not {trip.job.expect}: {trip.run}"
            )


def results(console: Console, lanes: Lanes, trips: Sequence[Trip]) -> None:
    """Prints the tables and the report that were asked for, and saves the charts as files that a browser opens."""
    heading(console, "What came out")
    shown = [trip for trip in trips if trip.job.show]
    tables = [_table(trip) for trip in shown if "query" in trip.run["output"]]
    _print(console, Columns(tables, padding=(0, 2)))
    CHARTS.mkdir(parents=True, exist_ok=True)
    for trip in shown:
        output = trip.run["output"]
        if "markdown" in output:
            _report(console, trip)
        for chart in _charts(lanes, trip):
            path = CHARTS / (re.sub(r"\W+", "-", _title(chart).lower()).strip("-") + ".svg")
            path.write_text(chart, encoding="utf-8")
            _print(console, Text.assemble("chart: ", (str(path), "cyan")))


def _table(trip: Trip) -> RenderableType:
    query = trip.run["output"]["query"]
    names = [column["name"] for column in query["columns"]]
    table = render.table(names, query["rows"][:TABLE_ROWS], total=query["row_count"])
    return Group(Text(f"{trip.user}: {trip.job.title}", "bold"), table)


def _report(console: Console, trip: Trip) -> None:
    """Prints a report as it is read; its charts are saved as files."""
    parts = ", ".join(f"{part['agent']} {render.MARKS[part['status']]}" for part in trip.run["output"]["parts"])
    _print(console, Text.assemble((f"{trip.user}: {trip.job.title}", "bold"), (f"  ({parts})", "dim")))
    _print(console, render.paper(trip.run["output"]["markdown"]))


def _charts(lanes: Lanes, trip: Trip) -> Iterator[str]:
    output = trip.run["output"]
    if "query" in output and output["chart"]:
        yield output["chart"]["svg"]
    for name in output.get("artifacts", ()):
        if name.endswith(".svg"):
            yield lanes.clients[trip.user].artifact(trip.view.id, name).decode()


def _title(svg: str) -> str:
    return html.unescape(svg.partition("<title>")[2].partition("</title>")[0])


def endings(console: Console, trips: Iterable[Trip]) -> None:
    """Prints why runs failed, and how soon a cancelled one was over."""
    for trip in trips:
        if trip.view.status == "failed":
            error = trip.run["error"]
            _print(console, Text(f"✗ {trip.user}'s {trip.job.title!r} failed, as it should: ", "red", end=""))
            _print(console, Padding(Text(f"{render.clean(error['message'])}", "red"), (0, 0, 0, 2)))
        if trip.cancel_at is not None and trip.view.ended_at is not None:
            took = render.span(trip.view.ended_at - trip.cancel_at)
            _print(console, Text(f"■ {trip.user}'s {trip.job.title!r} was over {took} after cancel", "magenta"))


def latencies(console: Console, trips: Sequence[Trip]) -> None:
    """Prints the times of runs that were submitted one after the other."""
    firsts = [trip.first_s * 1000 for trip in trips if trip.first_s is not None]
    totals = [trip.total_s * 1000 for trip in trips]
    table = Table("from submission to", "median", "slowest", box=None, header_style="dim", pad_edge=False)
    for name, times in (("the agent's first event, seen by the client", firsts), ("completed", totals)):
        table.add_row(name, f"{statistics.median(times):.0f} ms", f"{max(times):.0f} ms")
    _print(console, f"{len(trips)} small runs, each submitted after the end of the one before:")
    _print(console, table)


def proofs(console: Console, lanes: Lanes, canaries: dict[str, str]) -> None:
    """Checks, from what the clients saw, that nobody saw anything of another.

    Raises:
        DemoError: somebody did.
    """
    heading(console, "What was checked")
    count = sum(map(len, lanes.events.values()))
    tries, trespasses = lanes.trespass()
    most = lanes.most_in_progress()
    wrong = [*lanes.foreign(), *lanes.gaps(), *lanes.leaks(canaries), *trespasses]
    if most > (limit := min(client.me()["limits"]["concurrent_runs"] for client in lanes.clients.values())):
        wrong.append(f"{most} runs of one user were in progress; the limit is {limit}")
    if wrong:
        raise DemoError("the lanes are not apart: " + "; ".join(wrong[:10]))
    answers = {trip.user: json.dumps(trip.run["output"]) for trip in lanes.trips.values() if "secret" in trip.job.title}
    own = [user for user, text in answers.items() if canaries[user] in text]
    if len(own) != len(canaries):
        raise DemoError(f"not everybody got their own secret.csv: only {own}")
    for text in (
        f"{count:,} events on {len(canaries)} streams: no number missing, no run of another user",
        "three documents of one name, secret.csv: everybody got their own, nobody another's",
        f"{tries} tries to read another user's run: 404 each time",
        f"never more than {most} runs of one user in progress at once",
    ):
        _print(console, Text.assemble(("✓ ", "green"), text))


def next_steps(console: Console) -> None:
    """Prints commands that work as they stand."""
    heading(console, "What to try next")
    beside = Path(sys.executable).with_name("lanewise")
    try:
        command = str(beside.relative_to(Path.cwd()))
    except ValueError:
        command = str(beside)
    query = r"""{"inline": "n\n1\n2\n3", "sql": "SELECT sum(n) AS total FROM data"}"""
    start = "make up" if Path("Makefile").exists() else f"{command} up"
    console.print("  [dim]# the fleet, to stay; the rest in a second terminal[/]")
    for line in (
        start,
        f"export LANEWISE_TOKEN=$({command} token ada)",
        f"{command} agents",
        f"{command} submit data --watch --input '{query}'",
        f"{command} runs",
    ):
        console.print(Text(f"  {line}"), soft_wrap=True)
    console.print("  [dim]# your own agent in ten lines: README.md[/]")


def _print(console: Console, what: RenderableType) -> None:
    console.print(Padding(what, (0, 0, 0, 2), expand=False))
