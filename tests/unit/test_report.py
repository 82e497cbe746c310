"""Reports: figures from results only, citations that resolve, and other people's text that never becomes markup."""

from __future__ import annotations

import asyncio
import csv
import html
import io
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from shared.states import ExecutionState
from tests import model_server
from tests.model_server import ModelServer, environment, fails, says
from tests.parts import DictRecords, RecordingBridge, infrastructure
from tests.services import a_context
from worker.agents.report import Report
from worker.core import AgentExecutionResult
from worker.engine import ExecutionEngineFactory
from worker.registry import check_agent_class
from worker.reports import markdown
from worker.reports.findings import Findings
from worker.reports.paper import MAX_TABLE_ROWS, write
from worker.reports.summary import extractive, only_known

READER = MarkdownIt("commonmark", {"html": True}).enable("table")
SVG = "<svg xmlns='http://www.w3.org/2000/svg'></svg>"
HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))", "![x](http://e.vil/a)",
    "| a | b |", "`code`", "**bold** _it_ ~~no~~", "# head", "> quote", "1. one", "- item", "+ item", "&lt;b&gt;",
    "\\", "a\\|b", "line\nbreak\n\n# head", "[1]", "[a]: /x", "<https://e.vil>", "===", "---", "$x$", "\u202eevil",
    "a  \nb", "\x00\x1b[31m", "```\ncode", "<!-- ", "<?php", "]]>", "_a_", "*", "&#35;",
)  # fmt: skip


class Seen(HTMLParser):
    """What a reader of a page gets to see: tags, links and text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.links: list[str] = []
        self.texts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())


def seen(text: str) -> Seen:
    return Seen(READER.render(text))


def plain(text: str) -> str:
    """What should be seen of a text: without controls, in single spaces."""
    hidden = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f"
    kept = "".join(" " if ord(c) < 32 or 127 <= ord(c) < 160 else c for c in text if c not in hidden)
    return " ".join(kept.split())


def findings(**changed: Any) -> Findings:
    given: dict[str, Any] = {
        "request": "How many sales, and why?",
        "data": [
            {
                "about": "sales by region in sales.csv",
                "table": {"source": "sales.csv", "rows": 6, "columns": [{"name": "region", "type": "VARCHAR"}]},
                "query": {
                    "sql": "SELECT region, count(*) AS sales FROM data GROUP BY ALL",
                    "columns": [{"name": "region", "type": "VARCHAR"}, {"name": "sales", "type": "BIGINT"}],
                    "rows": [["north", 12345], ["south", 2], [None, 0.125]],
                    "row_count": 3,
                },
                "chart": {"title": "Sales by region", "svg": SVG},
            }
        ],
        "research": {
            "question": "why?", "found": True, "answer": "“Because it is so.” [2]\n\n“Why not.” [1]",
            "passages": [{"text": "Why not. Indeed.", "citation": 1}, {"text": "Because it is so.", "citation": 2}],
            "citations": [citation(1), citation(2, document="b c/ü.md", page=3)],
        },
    }  # fmt: skip
    return Findings.model_validate({**given, **changed})


def citation(number: int, **changed: Any) -> dict[str, Any]:
    return {
        "id": number, "document": "a.md", "sha256": "0" * 64, "passage": 10 + number, "heading": "Top > Why",
        "page": None, "start": 5, "end": 9, "quote": "Why not. Indeed.", **changed,
    }  # fmt: skip


def written(given: Findings) -> str:
    return write(given, "run-1", extractive(given)).markdown


def test_the_agent_is_sound() -> None:
    check_agent_class(Report)
    assert "request" in Report.Input.model_json_schema()["required"]


def test_a_list_of_rows_is_summed_up_by_their_number() -> None:
    data = findings().model_dump()["data"]
    data[0]["query"]["sql"] = "SELECT * FROM data WHERE \"city\" = 'Oslo' LIMIT 100"
    assert extractive(findings(data=data))[0] == "3 rows of **sales.csv**."


def test_figures_passages_and_sources() -> None:
    paper = write(findings(), "run-1", extractive(findings()))
    assert paper.title == "How many sales, and why?"
    assert "| north | 12,345 |\n| south | 2 |\n| (none) | 0.125 |" in paper.markdown
    assert "![Sales by region](/v1/runs/run-1/artifacts/chart.svg)" in paper.markdown
    assert "[result.csv](/v1/runs/run-1/artifacts/result.csv)" in paper.markdown
    assert "The documents say: “Because it is so.” [2]" in paper.markdown
    assert "> Why not. Indeed. [1]" in paper.markdown
    assert "- [1] [a.md](/v1/documents/a.md/passages/11), “Top \\> Why”, passage 11" in paper.markdown
    assert "- [2] [b c/ü.md](/v1/documents/b%20c%2F%C3%BC.md/passages/12), “Top \\> Why”, page 3" in paper.markdown
    assert [item["url"] for item in paper.citations] == [
        "/v1/documents/a.md/passages/11", "/v1/documents/b%20c%2F%C3%BC.md/passages/12",
    ]  # fmt: skip
    files = {file.name: file for file in paper.files}
    assert set(files) == {"chart.svg", "result.csv", "report.md"}
    assert list(csv.reader(io.StringIO(files["result.csv"].content)))[1:] == [
        ["north", "12345"], ["south", "2"], ["", "0.125"],
    ]  # fmt: skip
    assert files["report.md"].content == paper.markdown


def test_the_sentence_that_answers_may_stand_on_several_lines() -> None:
    given = findings()
    assert given.research is not None
    answer = "“Because it\n  is so.” [2]\n\n“Why not.” [1]"
    changed = given.model_copy(update={"research": given.research.model_copy(update={"answer": answer})})
    assert "The documents say: “Because it is so.” [2]" in extractive(changed)


def test_nothing_found_is_said() -> None:
    text = written(findings(data=[], research=None))
    assert "Nothing of yours answers this." in text
    assert "## Sources" not in text
    none = {"question": "why?", "found": False, "answer": "Not found: the documents do not say it."}
    text = written(findings(data=[], research=none, notes=["half of it"]))
    assert "Your documents do not say: why?" in text
    assert "- half of it" in text


def test_long_results_are_cut_with_the_number_of_rows() -> None:
    base = findings().model_dump()["data"][0]
    base["query"] |= {"rows": [[str(n), n] for n in range(50)], "row_count": 5000, "truncated": True}
    text = written(findings(data=[base]))
    assert len(re.findall(r"^\| \d", text, re.MULTILINE)) == MAX_TABLE_ROWS
    assert "The first 30 of 5000 rows" in text
    assert "(the file has the first 50)" in text


def test_two_tables_have_files_of_their_own() -> None:
    base = findings().model_dump()["data"][0]
    paper = write(findings(data=[base, base]), "run-1", [])
    assert [file.name for file in paper.files] == [
        "chart.svg", "result.csv", "chart-2.svg", "result-2.csv", "report.md",
    ]  # fmt: skip


@given(st.text(max_size=80) | st.sampled_from(HOSTILE) | st.tuples(*[st.sampled_from(HOSTILE)] * 3).map("".join))
def test_text_is_seen_as_it_was_written(text: str) -> None:
    for line in (markdown.text(text), f"> {markdown.text(text)} [1]", f"- {markdown.text(text)}"):
        page = seen(f"{line}\n")
        assert page.tags <= {"p", "blockquote", "ul", "li"}
        assert page.links == []
    if plain(text):
        assert seen(f"x {markdown.text(text)} x").text == f"x {plain(text)} x"


@example(["", "__0__"])
@given(st.lists(st.text(max_size=20) | st.sampled_from(HOSTILE), min_size=2, max_size=2))
def test_no_cell_leaves_its_table(cells: list[str]) -> None:
    page = seen(markdown.table(["a", "b"], [cells]))
    assert page.tags == {"table", "thead", "tbody", "tr", "th", "td"}
    shown = re.findall(r"<td[^>]*>(.*?)</td>", READER.render(markdown.table(["a", "b"], [cells])))
    assert [html.unescape(cell) for cell in shown] == [plain(cell) for cell in cells]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_in_any_place_stays_text(text: str) -> None:
    given = findings(request=text, notes=[text, text]).model_dump()
    base = given["data"][0]
    base |= {"about": text, "table": {"source": text, "rows": 1}, "chart": {"title": text, "svg": SVG}}
    base["query"] |= {"rows": [[text, 1], [text, 2]], "sql": text, "columns": [{"name": text}, {"name": text}]}
    reading = given["research"]
    reading |= {"question": text, "answer": text, "passages": [{"text": text, "citation": 1}]}
    reading["citations"] = [citation(1, document=text, heading=text, quote=text)]
    page = seen(written(Findings.model_validate(given)))
    assert page.tags <= {
        "h1", "h2", "p", "br", "strong", "table", "thead", "tbody", "tr", "th", "td", "img", "a", "blockquote", "ul",
        "li", "pre", "code",
    }  # fmt: skip
    assert len(page.links) == 4
    assert all(link.startswith(("/v1/documents/", "/v1/runs/run-1/artifacts/")) for link in page.links)
    assert all(link.count("/") == 5 for link in page.links if "passages" in link or "artifacts" in link)


def test_a_row_that_does_not_fit_its_columns_is_refused() -> None:
    base = findings().model_dump()["data"][0]
    base["query"]["rows"] = [["north"]]
    with pytest.raises(ValueError, match="one has 1 values, and there are 2 columns"):
        findings(data=[base])


def test_a_chart_that_is_no_svg_is_refused() -> None:
    base = findings().model_dump()["data"][0]
    base["chart"]["svg"] = "<script>"
    with pytest.raises(ValueError, match="svg"):
        findings(data=[base])


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("There are 12,345 sales in the north [1].", True),
        ("There are 12345 sales.", True),
        ("There are 12,346 sales.", False),
        ("Sales rose by 7 percent.", False),
        ("It is so [3].", False),
        ("It is so [1] [2].", True),
        ("No figures at all.", True),
    ],
)
def test_only_figures_and_citations_that_are_known(text: str, *, known: bool) -> None:
    assert only_known(text, ['{"region": "north", "sales": 12345}'], [1, 2]) is known


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server.serving() as running:
        yield running


def run_report(given: Findings) -> tuple[AgentExecutionResult, DictRecords, RecordingBridge]:
    parts = infrastructure(Report)
    engine = ExecutionEngineFactory(parts).create_engine(a_context("alice"))
    result = asyncio.run(engine.execute("report", given.model_dump()))
    assert isinstance(parts.records, DictRecords)
    assert isinstance(parts.bridge, RecordingBridge)
    return result, parts.records, parts.bridge


def test_the_agent_saves_what_it_links() -> None:
    result, records, bridge = run_report(findings())
    assert result.state is ExecutionState.COMPLETED, result.error
    assert set(records.artifacts) == {"chart.svg", "result.csv", "report.md"} == set(result.output["artifacts"])
    assert records.artifacts["report.md"][1].decode() == result.output["markdown"]
    assert records.artifacts["chart.svg"][0] == "image/svg+xml"
    assert bridge.data("agent_progress")[-1]["fraction"] == 1.0
    assert records.usage == []


def with_model(server: ModelServer, monkeypatch: pytest.MonkeyPatch, *scripts: Any) -> None:
    server.will(*scripts)
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)


def test_a_model_s_summary_is_used_if_it_makes_nothing_up(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with_model(server, monkeypatch, says('{"summary": "The north has 12,345 sales, *because* it is so [2]."}'))
    result, records, _ = run_report(findings())
    assert "The north has 12,345 sales, \\*because\\* it is so [2]." in result.output["markdown"]
    assert "Sales by region in **sales.csv**" not in result.output["markdown"]
    assert len(records.usage) == 1
    assert "12345" in server.told(role="user")[0]


@pytest.mark.parametrize(
    "script",
    [
        says('{"summary": "The north has 99,999 sales."}'),
        says('{"summary": "It is so [7]."}'),
        says('{"summary": ""}'),
        says("no JSON"),
        fails(401),
    ],
)
def test_a_model_that_makes_things_up_or_fails_is_done_without(
    server: ModelServer, monkeypatch: pytest.MonkeyPatch, script: Any
) -> None:
    with_model(server, monkeypatch, script)
    result, _, bridge = run_report(findings())
    assert result.output["markdown"] == written(findings()).replace("run-1", bridge.sent[0][3].run_id)
    assert any("summing up without" in data["text"] for data in bridge.data("agent_thinking"))
