"""Runs as they go: what events say about each, and a live picture of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from lanewise import render
from shared.event_types import LAST_TYPES
from shared.states import ENDS

REFRESH_PER_S = 12
NARROW = 100  # columns; below that the bars are short
MAX_LINE = 2_000  # characters without a line break, then there is one


@dataclass
class RunView:
    """What is known of one run, kept up to date by its events.

    Attributes:
        label: what to call it, e.g. its agent.
        lane: whose it is, where runs of several users are shown together.
        began_at: of its running, monotonic; None before.
        ran_s: of its running as the service measured it; None before its end.
    """

    id: str
    label: str
    lane: str = ""
    status: str = "queued"
    fraction: float = 0.0
    note: str = ""
    began_at: float | None = None
    ended_at: float | None = None
    ran_s: float | None = None
    made_at: float = field(default_factory=time.monotonic)
    _started: datetime | None = field(default=None, repr=False)
    _said: str = field(default="", repr=False)

    @classmethod
    def of(cls, run: Mapping[str, Any]) -> Self:
        """Returns the view of a run as REST or a snapshot gives it."""
        view = cls(run["id"], render.line(run["agent"]), status=run["status"])
        view.fraction = float(run["progress"]["fraction"])
        view.note = render.queue(run["queue"]) if run["queue"] else render.line(run["progress"]["note"])
        if view.status == "running":
            view.began_at = time.monotonic()
        return view

    @property
    def ended(self) -> bool:
        """Whether nothing follows."""
        return self.status in ENDS

    @property
    def elapsed_s(self) -> float:
        """Seconds since it began to run, up to its end; before that, since it was queued."""
        if self.ran_s is not None:
            return self.ran_s
        return (self.ended_at or time.monotonic()) - (self.began_at or self.made_at)

    def apply(self, event: Mapping[str, Any]) -> None:
        """Takes in what an event says."""
        kind, data = event["type"], event["data"]
        if kind in LAST_TYPES:
            self.status = kind.removeprefix("run_")
            self.ended_at = time.monotonic()
            if self._started:
                self.ran_s = (datetime.fromisoformat(event["at"]) - self._started).total_seconds()
            self.fraction = 1.0 if kind == "run_completed" else self.fraction
            self.note = render.event(event)
        elif kind == "run_started":
            self.status, self.note = "running", ""
            self.began_at = self.began_at or time.monotonic()
            self._started = self._started or datetime.fromisoformat(event["at"])
        elif kind == "run_queued":
            self.note = self.note or "waiting"
        elif kind in ("run_recovering", "run_position"):
            self.status, self.note = "queued", render.event(event)
        elif kind == "agent_progress":
            self.fraction = float(data.get("run_fraction", data["fraction"]))  # in a workflow: how far the whole is
            self.note = render.event({**event, "data": {**data, "fraction": None}})
        elif kind == "agent_thinking":
            self.note = render.line(data["text"])
        elif kind == "tool_executing":
            self.note = f"using {render.line(data['tool'])}"

    def lines(self, event: Mapping[str, Any]) -> list[str]:
        """Returns the lines of running text that an event completes: thoughts, and tokens put together."""
        if event["type"] == "agent_token":
            self._said += render.clean(event["data"]["text"])
        *lines, self._said = self._said.split("\n")
        if self._said and (event["type"] != "agent_token" or len(self._said) > MAX_LINE):
            lines, self._said = [*lines, self._said], ""
        return [*lines, render.clean(event["data"]["text"])] if event["type"] == "agent_thinking" else lines


class Board:
    """A live picture of runs, one row each; use it in a `with` statement. Text can be printed above it meanwhile.

    Args:
        console: a terminal.
        views: the rows, in order; may grow.
    """

    def __init__(self, console: Console, views: Mapping[str, RunView]) -> None:
        self._console = console
        self._views = views
        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(console=console, get_renderable=self._picture, refresh_per_second=REFRESH_PER_S)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    @property
    def print(self) -> Callable[..., None]:
        """Prints above the picture."""
        return self._live.console.print

    def _picture(self) -> RenderableType:
        views = list(self._views.values())
        room = max(3, self._console.height - 4)
        if len(views) > room:  # what still goes on matters most, then what ended last
            views = sorted(views, key=lambda view: (view.ended, -(view.ended_at or 0)))[:room]
        wide = self._console.width >= NARROW
        grid = Table.grid(padding=(0, 1), expand=True)
        lanes = any(view.lane for view in views)
        if lanes:
            grid.add_column(no_wrap=True, style="bold")
        grid.add_column(width=1)
        grid.add_column(no_wrap=True, max_width=34 if wide else 24, overflow="ellipsis")
        grid.add_column(width=24 if wide else 12)
        grid.add_column(no_wrap=True, justify="right", width=8)
        grid.add_column(no_wrap=True, ratio=1, overflow="ellipsis")
        lane = ""
        for view in views:
            cells = self._row(view, 24 if wide else 12)
            grid.add_row(*((view.lane if view.lane != lane else "",) if lanes else ()), *cells)
            lane = view.lane
        return grid

    def _row(self, view: RunView, width: int) -> tuple[RenderableType, ...]:
        style = render.STYLES.get(view.status, "")
        mark = Text(render.MARKS.get(view.status, "?"), style) if view.ended else self._spinner
        bar = ProgressBar(1.0, view.fraction, width, complete_style=style, finished_style=style, style="dim")
        time_shown = Text(render.span(view.elapsed_s), "" if view.ended else "dim")
        note = Text(view.note or view.status, style if view.ended else "dim")
        return mark, Text(view.label), bar, time_shown, note
