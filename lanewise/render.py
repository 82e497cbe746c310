"""JSON values, runs and events as text for a terminal. What others wrote never controls the terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.box import ROUNDED
from rich.console import Group, RenderableType
from rich.json import JSON
from rich.markdown import Markdown
from rich.padding import Padding
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

Json = dict[str, Any]

STYLES = {
    "queued": "dim", "running": "cyan", "completed": "green", "failed": "red", "cancelled": "magenta",
    "timed_out": "red",
}  # fmt: skip
MARKS = {"queued": "·", "running": "▸", "completed": "✓", "failed": "✗", "cancelled": "■", "timed_out": "✗"}
REASONS = {
    "user_limit": "your earlier runs come first",
    "fleet_busy": "all workers are busy",
    "retry_backoff": "it is tried again after a pause",
    "recovering": "its worker was lost",
    "redis_unavailable": "Redis is away",
    "no_worker": "no worker has this agent",
}
_LEADING = ("name", "column", "type")
MAX_ROWS = 30
MAX_CELL = 60
MAX_TEXT = 2_000
MAX_COLUMNS = 8
MAX_RECORDS = 10
PAPER_WIDTH = 110
_PICTURE = re.compile(r"^!\[.*\n\n?", re.MULTILINE)
_LINK = re.compile(r"(?<!\\)\[((?:[^\[\]\\]|\\.)*)\]\(/v1/[^)\s]*\)")
_CONTROLS = {code: None for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
_MARKDOWN = re.compile(r"^(#{1,6} |[-*] |\d+\. |> |```|\|.*\|$)|\*\*\S", re.MULTILINE)


def clean(value: Any) -> str:
    """Returns text without the control characters that could move the cursor, set titles or hide things."""
    return str(value).translate(_CONTROLS)


def line(value: Any, width: int = MAX_CELL) -> str:
    """Returns one line of clean text, cut to `width` characters."""
    text = " ".join(clean(value).split())
    return text if len(text) <= width else text[: width - 1] + "…"


def number(value: Any) -> str:
    """Returns a cell's text: numbers with separators, floats short."""
    if isinstance(value, bool) or value is None:
        return "" if value is None else str(value).lower()
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1e5 else f"{value:,.0f}"  # noqa: PLR2004 - digits beyond say nothing
    return line(json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value)


def span(seconds: float) -> str:
    """Returns a duration: `840 ms`, `3.2 s`, `4 min 05 s`."""
    if seconds < 0.9995:  # noqa: PLR2004 - what rounds to less than a second
        return f"{seconds * 1000:.0f} ms"
    minutes, rest = divmod(seconds, 60)
    return f"{int(minutes)} min {int(rest):02} s" if minutes else f"{seconds:.1f} s"


def status(name: str) -> Text:
    """Returns a run's status with its mark and colour."""
    return Text(f"{MARKS.get(name, '?')} {clean(name)}", STYLES.get(name, ""))


def queue(place: Mapping[str, Any] | None) -> str:
    """Returns where a queued run stands and why."""
    place = place or {}
    parts = [f"{_ordinal(place['position'])} in line"] if place.get("position") else []
    parts += [REASONS.get(str(place["reason"]), line(place["reason"]))] if place.get("reason") else []
    parts += [f"about {span(place['eta_s'])}"] if place.get("eta_s") else []
    return ", ".join(parts) or "waiting"


def event(item: Mapping[str, Any]) -> str:
    """Returns what an event says, in one line, without its type."""
    data = item["data"]
    error = data.get("error") if isinstance(data.get("error"), Mapping) else {}
    kind = item["type"]
    if kind == "agent_progress":
        part = f"{line(data['step'])}:" if data.get("step") else ""
        fraction = "" if data.get("fraction") is None else f"{float(data['fraction']):.0%}"
        return " ".join(filter(None, (part, fraction, line(data.get("note", "")))))
    if kind == "agent_artifact":
        return f"saved {line(data.get('name', ''))} ({line(data.get('content_type', ''))})"
    if kind == "run_position":
        return queue(data)
    said = error.get("message") or data.get("message") or data.get("reason") or data.get("text")
    if kind == "run_recovering" and data.get("after_s"):
        said = f"{said}; it goes on after {span(data['after_s'])}"
    return line(" ".join(clean(word) for word in (data.get("tool"), said) if word), 200)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, title: str = "", total: int | None = None) -> Table:
    """Returns a table: numbers to the right, long cells cut, at most 30 rows.

    Args:
        columns: their names.
        rows: JSON values.
        title: above it.
        total: how many rows there are, if not all are given.
    """
    all_rows = [list(row) for row in rows]
    shown = all_rows[:MAX_ROWS]
    made = Table(title=line(title) or None, title_justify="left", box=ROUNDED, border_style="dim", header_style="bold")
    for place, name in enumerate(columns):
        cells = [row[place] for row in shown if place < len(row) and row[place] is not None]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        made.add_column(Text(line(name)), justify="right" if numeric else "left", overflow="ellipsis")
    for row in shown:
        made.add_row(*(Text(number(cell)) for cell in row))
    count = len(all_rows) if total is None else total
    if count > len(shown):
        made.caption, made.caption_justify = f"{len(shown)} of {count:,} rows", "left"
    return made


def value(output: Any, title: str = "") -> RenderableType:
    """Returns what suits a JSON value: a table, Markdown, text, or the JSON itself; mixtures part by part."""
    if isinstance(output, str):
        return _text(output)
    if _is_result(output):
        names = [column["name"] if isinstance(column, dict) else column for column in output["columns"]]
        return table([clean(name) for name in names], output["rows"], title=title, total=output.get("row_count"))
    if _is_records(output):
        return _records(output, title)
    if isinstance(output, dict) and isinstance(output.get("markdown"), str):
        return Group(paper(output["markdown"]), _files(output.get("artifacts") or ()))
    if isinstance(output, dict) and any(_is_special(part) for part in output.values()):
        return Group(*_parts(output))
    return JSON(clean(json.dumps(output, ensure_ascii=False)))


def paper(text: str) -> RenderableType:
    """Returns a report as it is read: without its pictures, and without links that lead nowhere from a terminal."""
    text = _LINK.sub(r"*\1*", _PICTURE.sub("", text))
    return Panel(Markdown(clean(text)), box=ROUNDED, border_style="dim", width=PAPER_WIDTH)


def facts(pairs: Iterable[tuple[str, RenderableType]]) -> Table:
    """Returns names and values side by side."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, shown in pairs:
        grid.add_row(name, shown)
    return grid


def ago(moment: str | None) -> str:
    """Returns how long ago an RFC 3339 time was."""
    return f"{span(max(0.0, (datetime.now(UTC) - _time(moment)).total_seconds()))} ago" if moment else ""


def took(run: Mapping[str, Any]) -> str:
    """Returns how long a run ran, or has been running."""
    if not run.get("started_at"):
        return ""
    end = _time(run["finished_at"]) if run.get("finished_at") else datetime.now(UTC)
    return span(max(0.0, (end - _time(run["started_at"])).total_seconds()))


def _time(moment: str) -> datetime:
    return datetime.fromisoformat(moment)


def _text(text: str) -> RenderableType:
    if text.lstrip().startswith("<svg"):
        return Text(f"an SVG image of {len(text.encode()):,} bytes; `lanewise show RUN_ID --json` has it", "dim")
    text = clean(text)
    if _MARKDOWN.search(text):
        return Markdown(text)
    return Text(text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + f"… ({len(text):,} characters)")


def _parts(output: Json) -> list[RenderableType]:
    """Scalars first, side by side; then each part that has a form of its own, under its name."""
    plain = [(clean(name), Text(number(part))) for name, part in output.items() if not isinstance(part, dict | list)]
    short = [(name, shown) for name, shown in plain if not _is_special(output.get(name))]
    parts: list[RenderableType] = [facts(short)] if short else []
    for name, part in output.items():
        if part and (isinstance(part, dict | list) or _is_special(part)):
            parts += [Text(clean(name), "bold"), Padding(value(part), (0, 0, 0, 2), expand=False)]
    return parts


def _is_result(output: Any) -> bool:
    return (
        isinstance(output, dict)
        and isinstance(output.get("columns"), list)
        and isinstance(output.get("rows"), list)
        and all(isinstance(row, list) for row in output["rows"])
    )


def _is_records(output: Any) -> bool:
    return isinstance(output, list) and bool(output) and all(isinstance(item, dict) and item for item in output)


def _is_special(part: Any) -> bool:
    if isinstance(part, str):
        return len(part) > MAX_CELL and ("\n" in part or part.lstrip().startswith("<svg"))
    if isinstance(part, dict):
        return _is_result(part) or any(_is_special(item) for item in part.values())
    return _is_records(part)


def _records(records: Sequence[Mapping[str, Any]], title: str) -> RenderableType:
    """A table, if it can be read as one; else one below the other, ten of them."""
    names = sorted({key: None for record in records for key in record}, key=_heading)
    if len(names) <= MAX_COLUMNS:
        return table(names, ([record.get(name) for name in names] for record in records), title=title)
    blocks = [facts((clean(key), _cell(part)) for key, part in record.items()) for record in records[:MAX_RECORDS]]
    rest = [Text(f"and {len(records) - MAX_RECORDS} more", "dim")] if len(records) > MAX_RECORDS else []
    return Group(*(Padding(block, (0, 0, 1, 0)) for block in blocks), *rest)


def _files(names: Iterable[Any]) -> Text:
    return Text(" · ".join(line(name) for name in names), "dim")


def _cell(part: Any) -> Text:
    return Text(line(part, 3 * MAX_CELL) if isinstance(part, str) else number(part))


def _heading(key: str) -> int:
    """Puts what names a record first; the rest keeps its order."""
    return _LEADING.index(key) if key in _LEADING else len(_LEADING)


def _ordinal(place: int) -> str:
    return "next" if place == 1 else f"number {place}"
