"""The first paragraph of a report: what the figures and passages say, in their own words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from worker.reports import markdown
from worker.reports.findings import Figures, Findings, Reading, Result

_NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")
_GROUPED = re.compile(r"\bGROUP\s+BY\b", re.IGNORECASE)  # else the rows themselves are listed: no figures by a group
_MARK = re.compile(r"\[(\d+)\]")
# The first quote of an answer of `research`; it may stand on several lines.
_ANSWER = re.compile(r"“(.+?)” \[(\d{1,4})\](?:\n|$)", re.DOTALL)
MAX_QUOTE_CHARS = 300
SHOWN_ROWS = 3


def extractive(findings: Findings) -> list[str]:
    """Returns sentences of Markdown made of the findings alone."""
    sentences = [figures_sentence(figures) for figures in findings.data]
    if findings.research:
        sentences.append(reading_sentence(findings.research))
    return sentences or ["Nothing of yours answers this."]


def figures_sentence(figures: Figures) -> str:
    """Returns what a table says: its size, the one figure, or the first rows."""
    name = markdown.text(figures.table.source)
    if figures.query is None:
        return (
            f"**{name}** has {markdown.number(figures.table.rows)} rows in {len(figures.table.columns)} columns"
            f"{': ' if figures.table.columns else ''}{', '.join(markdown.text(c.name) for c in figures.table.columns)}."
        )
    result = figures.query
    if not result.rows:
        return f"In **{name}** no row answers this."
    if len(result.rows) == 1:
        pairs = zip(result.columns, result.rows[0], strict=True)
        return "; ".join(f"{markdown.text(c.name)}: **{markdown.cell(v)}**" for c, v in pairs) + f" ({name})."
    return _rows_sentence(result, name)


def _rows_sentence(result: Result, name: str) -> str:
    total = "more than a million" if result.row_count is None else markdown.number(result.row_count)
    if not _GROUPED.search(result.sql):
        return f"{total} rows of **{name}**."
    first, *rest = result.columns
    if not rest:
        return f"{total} rows of **{name}**, the first: {markdown.cell(result.rows[0][0])}."
    label = f"{markdown.text(rest[-1].name)} by {' and '.join(markdown.text(c.name) for c in result.columns[:-1])}"
    if first.type.startswith(("DATE", "TIMESTAMP")):
        start, end = result.rows[0], result.rows[-1]
        return (
            f"{_capital(label)} in **{name}**: from **{markdown.cell(start[-1])}** ({markdown.cell(start[0])}) "
            f"to **{markdown.cell(end[-1])}** ({markdown.cell(end[0])}), in {total} rows."
        )
    shown = ", ".join(
        f"{' / '.join(map(markdown.cell, row[:-1]))} **{markdown.cell(row[-1])}**" for row in result.rows[:3]
    )
    return f"{_capital(label)} in **{name}**: {shown}{f', and so on: {total} rows' if len(result.rows) > 3 else ''}."  # noqa: PLR2004


def reading_sentence(reading: Reading) -> str:
    """Returns the sentence that answers best, with its mark, or that there is none."""
    if not reading.found or not reading.passages:
        return f"Your documents do not say: {markdown.text(markdown.cut(reading.question, MAX_QUOTE_CHARS))}"
    cited = {passage.citation for passage in reading.passages}
    answer = _ANSWER.match(reading.answer)
    if answer and int(answer[2]) in cited:
        said, mark = answer[1], int(answer[2])
    else:
        said, mark = reading.passages[0].text, reading.passages[0].citation
    return f"The documents say: “{markdown.text(markdown.cut(said, MAX_QUOTE_CHARS))}” [{mark}]"


def only_known(text: str, facts: Iterable[str], citations: Iterable[int]) -> bool:
    """Tells whether every figure and every citation of a text occurs in the facts.

    Args:
        text: by a model.
        facts: what the model was given.
        citations: the numbers that passages have.
    """
    known = {found.replace(",", "") for fact in facts for found in _NUMBER.findall(fact)}
    marks = set(_MARK.findall(text))
    bare = _MARK.sub("", text)
    return marks <= {str(number) for number in citations} and all(
        found.replace(",", "") in known for found in _NUMBER.findall(bare)
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
