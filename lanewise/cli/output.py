"""What the client's commands print: for people, or JSON lines."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lanewise import render
from lanewise.board import Board, RunView
from lanewise.cli.root import FAILED, INTERRUPTED, OK
from lanewise.errors import GapError

if TYPE_CHECKING:
    from lanewise.client import Client
    from lanewise.doctor.findings import Finding
    from lanewise.stream import Event, Stream
    from shared.audit_check import Examination, Flaw

Json = dict[str, Any]

_FINDING_STYLES = {"ok": "green", "warning": "yellow", "failed": "bold red"}
PLAIN_WIDTH = 200  # where nobody sees the edge, tables need not be squeezed


class Output:
    """Results go to standard output, what is said on the way to standard error.

    Args:
        as_json: JSON lines only.
    """

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._out = _console(stderr=False)
        self._err = _console(stderr=True)

    def agents(self, agents: Sequence[Json]) -> None:
        """Prints the agents and what they take."""
        if self._as_json:
            return self._lines(agents)
        table = Table("agent", "what it does", "input", box=None, header_style="bold", pad_edge=False)
        for agent in agents:
            words = Text(render.line(agent["description"], 300))
            table.add_row(Text(agent["name"], "bold"), words, Text(_fields(agent["input_schema"]), "dim"))
        return self._out.print(table if agents else "no worker with agents is running")

    def submitted(self, run: Json) -> None:
        """Prints the id of a new run."""
        if self._as_json:
            return self._lines([run])
        click.echo(run["id"])
        if self._err.is_terminal:
            self._err.print(f"[dim]{render.queue(run['queue'])}; follow it: lanewise watch {run['id']}[/]")
        return None

    def runs(self, runs: Sequence[Json]) -> None:
        """Prints a list of runs."""
        if self._as_json:
            return self._lines(runs)
        table = Table("run", "agent", "status", "submitted", "ran", box=None, header_style="bold", pad_edge=False)
        for run in runs:
            state, when = render.status(run["status"]), render.ago(run["created_at"])
            table.add_row(run["id"], Text(render.line(run["agent"], 24)), state, when, render.took(run))
        return self._out.print(table if runs else "no runs")

    def run(self, run: Json) -> None:
        """Prints a run and its result."""
        if self._as_json:
            return self._lines([run])
        pairs: list[tuple[str, Any]] = [
            ("run", Text(run["id"])),
            ("agent", Text(render.clean(run["agent"]))),
            ("status", render.status(run["status"])),
            ("thread", Text(run["thread_id"])),
            ("submitted", Text(f"{run['created_at']} ({render.ago(run['created_at'])})")),
        ]
        if run["started_at"]:
            tries = f", attempt {run['attempt']}" if run["attempt"] > 1 else ""
            pairs.append(("ran", Text(render.took(run) + tries)))
        if run["retry_of"]:
            pairs.append(("retry of", Text(run["retry_of"])))
        if run["queue"]:
            pairs.append(("waits", Text(render.queue(run["queue"]))))
        elif run["status"] == "running":
            progress = run["progress"]
            pairs.append(("progress", Text(f"{progress['fraction']:.0%} {render.line(progress['note'])}")))
        pairs.append(("input", Text(render.line(json.dumps(run["input"], ensure_ascii=False), 300))))
        self._out.print(render.facts(pairs))
        return self._result(run)

    def limits(self, limits: Json) -> None:
        """Prints a user's limits."""
        if self._as_json:
            return self._lines([limits])
        names = {"concurrent_runs": "runs at once", "queued_runs": "runs queued"}
        pairs = [
            (words, Text(f"{limits['effective'][name]:,}{'' if limits[name] else ' (as all users)'}"))
            for name, words in names.items()
        ]
        return self._out.print(render.facts(pairs))

    def grants(self, grants: Sequence[Json]) -> None:
        """Prints a user's grants."""
        if self._as_json:
            return self._lines(grants)
        table = Table("tool", "until", "granted by", "granted", box=None, header_style="bold", pad_edge=False)
        for grant in grants:
            by = Text(render.line(grant["granted_by"], 40))
            table.add_row(Text(grant["tool"], "bold"), grant["expires_at"] or "", by, render.ago(grant["granted_at"]))
        return self._out.print(table if grants else "no grants")

    def deleted(self, deletion: Json) -> None:
        """Prints what is gone of a user who was deleted."""
        if self._as_json:
            return self._lines([deletion])
        removed = [f"{rows:,} of {table}" for table, rows in sorted(deletion["removed"].items())]
        return self._out.print(Text(f"deleted: {', '.join(removed) or 'there was nothing'}"))

    def findings(self, findings: Iterable[Finding]) -> list[Finding]:
        """Prints what was found, each as it comes; returns them all."""
        seen = []
        for finding in findings:
            seen.append(finding)
            if self._as_json:
                self._lines([vars(finding)])
                continue
            words = Text.assemble((f"{finding.status:<8}", _FINDING_STYLES[finding.status]), f"{finding.check:<13} ")
            self._out.print(words.append(render.clean(finding.detail)), soft_wrap=True)
            if finding.cure:
                self._out.print(Text(f"{'':<22}→ {render.clean(finding.cure)}", "dim"), soft_wrap=True)
        return seen

    def flaws(self, flaws: Iterable[Flaw], examination: Examination) -> int:
        """Prints what is wrong with the audit trail, each as it comes, and what was looked at; returns how many."""
        number = 0
        for flaw in flaws:
            number += 1
            if self._as_json:
                self._lines([vars(flaw)])
            else:
                kind = (f"{flaw.kind:<19}", "bold red")
                words = render.clean(f"{flaw.where}: {flaw.detail}")
                self._out.print(Text.assemble(kind, words), soft_wrap=True)
        looked = {
            name: getattr(examination, name)
            for name in ("records", "unsealed", "seals", "after", "since", "removed", "last")
        }
        if self._as_json:
            self._lines([{"flaws": number, **looked}])
        else:
            for seal in examination.removed:
                words = f"seal {seal}: removed by retention; its MAC can no longer be compared"
                self._out.print(words, soft_wrap=True)
            verdict = f"{number} flaw{'s' * (number > 1)}" if number else "all is as it was written"
            begins = f"after seal {examination.after}" if examination.after else "with the first seal"
            begins += f" of {examination.since}" if examination.since else " to come"
            self._out.print(
                f"{verdict}: {examination.records} records in {examination.seals} seals, "
                f"{examination.unsealed} not sealed yet; the trail begins {begins}; last seal {examination.last}",
                soft_wrap=True,
            )
        return number

    def cancelled(self, run: Json) -> None:
        """Prints what became of a wish to cancel."""
        if self._as_json:
            return self._lines([run])
        words = {"running": "asked to stop", "cancelled": "cancelled"}
        return self._out.print(Text(words.get(run["status"], f"it had ended before: {run['status']}")))

    def follow(self, client: Client, run: Json) -> int:
        """Follows one run to its end and prints its result; returns the exit code."""
        try:
            with client.stream(run_id=run["id"]) as stream:
                self.play(RunView.of(run), stream)
        except KeyboardInterrupt:
            self._err.print(f"the run goes on: lanewise watch {run['id']} · lanewise cancel {run['id']}", style="dim")
            return INTERRUPTED
        return self.ended(client.run(run["id"]))

    def play(self, view: RunView, events: Iterable[Event]) -> None:
        """Shows the events of one run as they come."""
        with self._board({view.id: view}, self._err) as board:
            for event in events:
                view.apply(event)
                self._tell(event, view, board, self._err)

    def ended(self, run: Json) -> int:
        """Prints the result of a run that has ended; returns the exit code."""
        if self._as_json:
            self._lines([run])
        else:
            self._result(run)
        return OK if run["status"] == "completed" else FAILED

    def steps(self, title: str, files: Iterable[Path], steps: Iterable[tuple[str, str]]) -> None:
        """Prints which files were written, and what to type next."""
        self._out.print(Text(title))
        for file in files:
            self._out.print(Text(f"  {file}", "dim"))
        for why, typed in steps:  # to be copied as they are, all at once if one likes
            self._out.print(Text(f"\n# {why}", "dim"))
            self._out.print(Text(typed, "bold"), soft_wrap=True)

    def busy(self, what: str) -> contextlib.AbstractContextManager[object]:
        """Shows, on a terminal, that something is going on which has nothing else to show yet."""
        return contextlib.nullcontext() if self._as_json or not self._err.is_terminal else self._err.status(what)

    def aside(self, *lines: str) -> None:
        """Prints what is good to know besides the result."""
        for line in lines:
            self._err.print(Text(render.clean(line), "dim"))

    def follow_all(self, client: Client) -> int:
        """Follows all the user's runs until Ctrl-C."""
        with contextlib.suppress(KeyboardInterrupt), client.stream() as stream:
            stream.open()
            views = _live_runs(stream.snapshot)
            with self._board(views, self._out) as board:
                if board:
                    board.print("[dim]your runs, live; Ctrl-C ends the watching, not the runs[/]")
                for event in _over_gaps(stream, views):
                    label = f"{render.line(event['agent'], 16)} {event['run_id'][-8:]}"
                    view = views.setdefault(event["run_id"], RunView(event["run_id"], label))
                    view.apply(event)
                    self._tell(event, view, board, self._out)
        return OK

    def _tell(self, event: Event, view: RunView, board: Board | None, console: Console) -> None:
        """Says an event: as JSON, as a line, or, where there is a live picture, only what it does not show."""
        if self._as_json:
            self._lines([event])
        elif board is None:
            console.print(_event_line(event))
        else:
            for line in view.lines(event):
                board.print(Text(f"  {view.label}  {line}" if console is self._out else f"  {line}", "dim"))

    def _board(self, views: Mapping[str, RunView], console: Console) -> contextlib.AbstractContextManager[Board | None]:
        if self._as_json or not console.is_terminal:
            return contextlib.nullcontext()
        return Board(console, views)

    def _result(self, run: Json) -> None:
        if run["error"]:
            error = run["error"]
            again = " (worth another try)" if error["retryable"] else ""
            self._out.print(Text(f"{error['type']}: {render.clean(error['message'])}{again}", "red"))
        elif run["status"] == "completed":
            self._out.print(render.value(run["output"]))

    def _lines(self, items: Sequence[Mapping[str, Any]]) -> None:
        for item in items:
            sys.stdout.write(json.dumps(item) + "\n")
        sys.stdout.flush()


def _console(*, stderr: bool) -> Console:
    console = Console(stderr=stderr, highlight=False)
    return console if console.is_terminal else Console(stderr=stderr, highlight=False, width=PLAIN_WIDTH)


def _event_line(event: Event) -> Text:
    style = render.STYLES.get(event["type"].removeprefix("run_"), "")
    clock, run_id, words = event["at"][11:19], event["run_id"][-8:], render.event(event)
    return Text(f"{clock} {run_id} {render.line(event['agent'], 16):<10} {event['type']:<15} {words}".rstrip(), style)


def _live_runs(snapshot: Any) -> dict[str, RunView]:
    views = [RunView.of(run) for run in reversed((snapshot or {}).get("runs", []))]
    for view in views:
        view.label = f"{view.label} {view.id[-8:]}"
    return {view.id: view for view in views if not view.ended}


def _over_gaps(stream: Stream, views: dict[str, RunView]) -> Iterator[Event]:
    while True:
        try:
            yield from stream
        except GapError as gap:
            views.update(_live_runs(gap.snapshot))
        else:
            return


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", [])
    return ", ".join(name if name in required else f"[{name}]" for name in schema.get("properties", {}))
