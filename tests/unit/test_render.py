from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from lanewise import render
from lanewise.board import RunView
from tests.scripted import event
from tests.unit.test_cli import RUN


def shown(value: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render.value(value))
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_a_query_s_result_is_a_table_with_numbers_to_the_right() -> None:
    output = {
        "columns": [{"name": "city"}, {"name": "people"}],
        "rows": [["Oslo", 717710], ["Bø", None]],
        "row_count": 9,
    }
    text = shown(output)
    assert "│ Oslo │ 717,710 │" in text
    assert "│ Bø   │         │" in text
    assert "2 of 9 rows" in text


def test_records_are_a_table_that_is_named_first() -> None:
    text = shown([{"max": 2.5, "column": "a"}, {"column": "b", "nulls": 3}])
    assert "│ column │ max │ nulls │" in text


def test_long_tables_and_cells_are_cut() -> None:
    text = shown([{"n": number, "text": "x" * 500} for number in range(100)])
    assert "30 of 100 rows" in text
    assert "x" * 80 not in text


def test_a_mixture_is_shown_part_by_part() -> None:
    output = {
        "title": "Sums",
        "query": {"columns": ["a"], "rows": [[1]]},
        "svg": f"<svg>{'x' * 100}</svg>",
        "none": None,
    }
    text = shown(output)
    assert "title  Sums" in text
    assert "│ a │" in text
    assert "an SVG image of 111 bytes" in text
    assert "xxx" not in text


@pytest.mark.parametrize("value", [{"a": {"b": [1, 2]}}, [1, 2, 3], 7, None, True, {}, [], ""])
def test_anything_else_is_shown_as_it_is(value: Any) -> None:
    assert shown(value) is not None
    assert value != {"a": {"b": [1, 2]}} or '"b": [' in shown(value)


def test_markdown_is_rendered_and_other_text_left_alone() -> None:
    assert "**" not in shown("# Title\n\nSome **bold** words")
    assert shown("2 * 3 * 4 [b]x[/b] #5") == "2 * 3 * 4 [b]x[/b] #5\n"


@pytest.mark.parametrize("value", ["\x1b[31mred\x07\x9b2J", ["\x9b2J\x1b]0;t\x07"], [{"\x1b[2J": "\x1b[2J\x85"}]])
def test_no_value_controls_the_terminal(value: Any) -> None:
    text = shown(value)
    assert not {"\x1b", "\x07", "\x9b", "\x85"} & set(text)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.0042, "4 ms"), (0.9996, "1.0 s"), (1, "1.0 s"), (59.9, "59.9 s"), (65, "1 min 05 s")]
)
def test_spans_read_well(seconds: float, text: str) -> None:
    assert render.span(seconds) == text


def test_a_view_follows_its_run() -> None:
    view = RunView.of(RUN)
    assert (view.status, view.note) == ("queued", "number 3 in line, your earlier runs come first, about 4.2 s")
    steps = [
        (event(1, "run_queued"), "queued", "number 3 in line, your earlier runs come first, about 4.2 s"),
        (
            event(2, "run_position", position=1, reason="user_limit"),
            "queued",
            "next in line, your earlier runs come first",
        ),
        (event(3, "run_started"), "running", ""),
        (event(4, "agent_thinking", text="hm"), "running", "hm"),
        (event(5, "tool_executing", tool="data"), "running", "using data"),
        (event(6, "agent_progress", fraction=0.25, note="a quarter"), "running", "a quarter"),
        (event(7, "run_recovering", reason="sandbox_died", message="it was killed"), "queued", "it was killed"),
        (event(7, "run_recovering", message="busy", after_s=90), "queued", "busy; it goes on after 1 min 30 s"),
        (event(8, "run_started"), "running", ""),
        (event(9, "run_failed", error={"type": "X", "message": "no\x1b good"}), "failed", "no good"),
    ]
    for item, status, note in steps:
        view.apply({**item, "at": f"2026-01-01T00:00:{item['seq']:02}.500Z"})
        assert (view.status, view.note) == (status, note)
    assert (view.ended, view.fraction, view.elapsed_s) == (True, 0.25, 6)


def test_a_report_is_shown_as_it_is_read() -> None:
    markdown = (
        "# Sales\n\nNorth: **3** [1]\n\n![a chart](chart.svg)\n\n- [1] [notes.md](/v1/documents/notes.md/passages/2)\n"
    )
    text = shown(
        {"title": "Sales", "markdown": markdown, "citations": [{"id": 1}], "artifacts": ["a.svg", "b\x1b.csv"]}
    )
    assert "Sales" in text
    assert "North: 3 [1]" in text
    assert "notes.md" in text
    assert "a.svg · b.csv" in text
    for hidden in ("/v1/", "chart.svg", "citations", "\x1b"):
        assert hidden not in text


def test_records_with_many_fields_stand_one_below_the_other() -> None:
    records = [{f"field {key}": "word " * 40 for key in range(9)} for _ in range(12)]
    lines = shown(records).splitlines()
    assert lines[0].startswith("field 0  word word")
    assert lines[-1].strip() == "and 2 more"
    assert max(map(len, lines)) <= 120


def test_in_a_workflow_the_bar_is_the_wholes_and_the_note_the_parts() -> None:
    view = RunView.of(RUN)
    view.apply(event(1, "agent_progress", fraction=0.5, note="reading", step="data", run_fraction=0.2))
    assert (view.fraction, view.note) == (0.2, "data: reading")


def test_events_of_agents_in_a_line() -> None:
    part: dict[str, Any] = {"fraction": 0.5, "note": "reading", "step": "da\x1bta", "run_fraction": 0.2}
    assert render.event(event(1, "agent_progress", **part)) == "data: 50% reading"
    assert render.event(event(1, "agent_progress", fraction=0.5, note="")) == "50%"
    saved: dict[str, Any] = {"name": "a.svg", "content_type": "image/svg+xml", "size": 3}
    assert render.event(event(1, "agent_artifact", **saved)) == "saved a.svg (image/svg+xml)"


def test_tokens_are_put_together_to_lines() -> None:
    view = RunView("r1", "chat")
    tokens = [view.lines(event(seq, "agent_token", text=text)) for seq, text in enumerate(["Hel", "lo\nwor", "ld"], 1)]
    assert tokens == [[], ["Hello"], []]
    assert view.lines(event(4, "agent_thinking", text="done")) == ["world", "done"]
    assert view.lines(event(5, "run_completed")) == []
