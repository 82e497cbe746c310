"""`Paper`: a report's Markdown, its citations and the files that go with it."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.reports import markdown
from worker.reports.findings import Citation, Figures, Findings, Reading, Result

NOT_FOUND = "Not found:"  # what `research` says of a part that has no answer
MAX_TABLE_ROWS = 30
MAX_PASSAGES = 6
MAX_PASSAGE_CHARS = 700
MAX_TITLE_CHARS = 120
_RULE = re.compile(r"([=~^*#_-])\1{3,}")
_PROFILE = {
    "column": "column", "type": "type", "nulls": "empty", "distinct": "different", "min": "lowest", "max": "highest",
    "mean": "mean",
}  # fmt: skip
_SVG, _CSV, _MD = "image/svg+xml", "text/csv; charset=utf-8", "text/markdown; charset=utf-8"


@dataclass(frozen=True)
class File:
    """A file that goes with a report."""

    name: str
    content: str
    content_type: str


@dataclass(frozen=True)
class Paper:
    """A written report."""

    title: str
    markdown: str
    citations: tuple[dict[str, Any], ...]
    files: tuple[File, ...]


def write(findings: Findings, run_id: str, summary: Sequence[str]) -> Paper:
    """Writes findings up.

    Args:
        findings: all there is to say.
        run_id: where the files will be.
        summary: sentences of Markdown, for the first paragraph.
    """
    title = markdown.cut(findings.request, MAX_TITLE_CHARS)
    blocks = [f"# {markdown.text(title)}", "\n".join(f"{sentence}  " for sentence in summary).rstrip()]
    files: list[File] = []
    for number, figures in enumerate(findings.data, 1):
        made = _files(figures, "" if number == 1 else f"-{number}")
        blocks += _figures(figures, made, run_id)
        files += made
    if findings.research:
        blocks += _passages(findings.research)
    if findings.notes:
        blocks += ["## Notes", "\n".join(f"- {markdown.text(note)}" for note in findings.notes)]
    citations = _cited(findings.research)
    if citations or findings.data:
        blocks += ["## Sources", "\n".join([*map(_source, citations), *map(_table_source, findings.data)])]
    text = "\n\n".join(blocks).rstrip() + "\n"
    resolved = tuple({**item.model_dump(), "url": _url(item)} for item in citations)
    return Paper(title, text, resolved, (*files, File("report.md", text, _MD)))


def _files(figures: Figures, suffix: str) -> list[File]:
    files = [File(f"chart{suffix}.svg", figures.chart.svg, _SVG)] if figures.chart else []
    return [*files, File(f"result{suffix}.csv", _csv(figures.query), _CSV)] if figures.query else files


def _figures(figures: Figures, files: Sequence[File], run_id: str) -> list[str]:
    blocks = [f"## {_capital(markdown.text(figures.about or figures.table.source))}"]
    if result := figures.query:
        rows = [[_moment(value, c.name) for value, c in zip(row, result.columns, strict=True)] for row in result.rows]
        blocks.append(markdown.table([column.name for column in result.columns], rows[:MAX_TABLE_ROWS]))
        total = "more than a million" if result.row_count is None else markdown.number(result.row_count)
        shown = f"The first {MAX_TABLE_ROWS} of {total} rows" if len(rows) > MAX_TABLE_ROWS else f"{total} rows"
        shown = "1 row" if total == "1" else shown
        partly = f" (the file has the first {len(rows)})" if result.truncated else ""
        file = next(file.name for file in files if file.name.endswith(".csv"))
        blocks.append(f"{shown}; all in {markdown.link(file, 'v1', 'runs', run_id, 'artifacts', file)}{partly}.")
    else:
        keys = [key for key in _PROFILE if any(key in entry for entry in figures.profile)]
        blocks.append(
            markdown.table(
                [_PROFILE[key] for key in keys], [[entry.get(key) for key in keys] for entry in figures.profile]
            )
        )
    if figures.chart:
        file = next(file.name for file in files if file.name.endswith(".svg"))
        blocks.append("!" + markdown.link(figures.chart.title, "v1", "runs", run_id, "artifacts", file))
    return blocks


def _passages(reading: Reading) -> list[str]:
    blocks = ["## What the documents say"]
    if not reading.found or not reading.passages:
        return [*blocks, f"{markdown.text(reading.question)}  \n{markdown.text(reading.answer)}".rstrip()]
    places = {citation.id: citation for citation in reading.citations}
    for passage in [item for item in reading.passages if item.citation in places][:MAX_PASSAGES]:
        where = places[passage.citation]
        heading = f" · {markdown.text(where.heading)}" if where.heading else ""
        blocks.append(f"**{markdown.text(where.document)}**{heading}")
        said = markdown.cut(_body(passage.text, where.heading), MAX_PASSAGE_CHARS)
        blocks.append(markdown.quotation(said, f"[{passage.citation}]"))
    return blocks + [markdown.text(line) for line in reading.answer.splitlines() if line.startswith(NOT_FOUND)]


def _body(text: str, heading: str) -> str:
    """Returns a passage without the heading that it begins with, which is shown already, and lines under headings."""
    lines = [line for line in text.splitlines() if not _RULE.fullmatch(line.strip())]
    title = heading.rpartition(" > ")[2]
    return "\n".join(lines[1:] if len(lines) > 1 and lines[0].strip("# ") == title else lines)


def _cited(reading: Reading | None) -> list[Citation]:
    """Returns the citations of the passages that are shown."""
    if reading is None or not reading.found:
        return []
    places = {citation.id: citation for citation in reading.citations}
    shown = [item.citation for item in reading.passages if item.citation in places][:MAX_PASSAGES]
    return [places[number] for number in dict.fromkeys(shown)]


def _source(item: Citation) -> str:
    parts = [f"[{markdown.text(item.document)}]({_url(item)})"]
    parts += [f"“{markdown.text(item.heading)}”"] if item.heading else []
    parts += [f"page {item.page}"] if item.page is not None else []
    return f"- [{item.id}] {', '.join(parts)}, passage {item.passage}"


def _table_source(figures: Figures) -> str:
    name = figures.table.source
    line = f"- {markdown.link(name, 'v1', 'documents', name)}, {markdown.number(figures.table.rows)} rows"
    if figures.query:
        block = markdown.fenced(figures.query.sql, "sql").replace("\n", "\n  ")
        line += f", by this SQL:\n\n  {block}\n"
    return line


def _url(item: Citation) -> str:
    return markdown.url("v1", "documents", item.document, "passages", item.passage)


def _csv(result: Result | None) -> str:
    text = io.StringIO()
    if result:
        writer = csv.writer(text)
        writer.writerow([column.name for column in result.columns])
        writer.writerows(result.rows)
    return text.getvalue()


def _moment(value: Any, column: str) -> Any:
    """Returns the first day of a month as the month."""
    return value.removesuffix("-01") if column == "month" and isinstance(value, str) else value


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
