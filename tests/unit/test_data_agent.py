"""The `data` agent and its tool on the real engine parts, with inline tables; `integration` has those in Postgres."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import duckdb
import pytest
from pydantic import ValidationError

from shared.context import UserExecutionContext
from shared.event_types import EventType
from shared.ids import new_id
from shared.states import ExecutionState
from tests.parts import infrastructure
from worker.agents.data import Data, DataInput
from worker.authoring import ToolError
from worker.core import AgentExecutionResult
from worker.described import describe_error
from worker.engine import ExecutionEngineFactory
from worker.registry import check_agent_class
from worker.tools.data_helper import DataHelperTool
from worker.toolsystem import UserContextToolFactory, UserToolSystem

SALES = "region,amount,day\nnorth,1.5,2024-01-01\nsouth,2,2024-01-02\nnorth,,2024-01-03\nsouth,4,2024-01-04\n"


class Recorder:
    """Keeps events instead of sending them, and is a home without database and store."""

    def __init__(self) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []

    def send_event(self, context: UserExecutionContext, kind: str, agent: str, data: dict[str, Any]) -> None:
        assert context.user_id == "alice"
        assert agent == "data"
        self.events.append((kind, data))

    def session(self, context: UserExecutionContext) -> NoReturn:
        raise AssertionError(f"no session is needed for {context.run_id}")

    def get(self, key: str) -> NoReturn:
        raise AssertionError(key)

    def set(self, key: str, value: Any, ttl_s: float) -> NoReturn:
        raise AssertionError(key, value, ttl_s)

    def close(self) -> None:
        pass

    def of(self, kind: EventType) -> list[dict[str, Any]]:
        return [data for name, data in self.events if name == kind]


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def a_context() -> UserExecutionContext:
    return UserExecutionContext.from_request("alice", new_id(), new_id())


def tool_system(recorder: Recorder, context: UserExecutionContext) -> UserToolSystem:
    factory = UserContextToolFactory(recorder, recorder)
    return factory.create_user_tool_system(context, Data.tools, lambda _: recorder, "data")


def run_agent(recorder: Recorder, **given: Any) -> AgentExecutionResult:
    parts = replace(infrastructure(Data), database=recorder, store=recorder, bridge=recorder)
    return asyncio.run(ExecutionEngineFactory(parts).create_engine(a_context()).execute("data", given))


def output(recorder: Recorder, **given: Any) -> dict[str, Any]:
    result = run_agent(recorder, **given)
    assert result.state is ExecutionState.COMPLETED, result.error
    assert isinstance(result.output, dict)
    return result.output


def test_the_agent_is_sound() -> None:
    check_agent_class(Data)
    schema = Data.Input.model_json_schema()
    assert {"document", "inline", "format", "join", "sql", "chart"} == set(schema["properties"])
    assert all("description" in field for field in schema["properties"].values())
    action = DataHelperTool.Parameters.model_json_schema()["discriminator"]
    assert set(action["mapping"]) == {"open", "profile", "query", "chart"}


def test_a_table_is_profiled_asked_and_drawn(recorder: Recorder) -> None:
    sql = "SELECT region, sum(amount) AS total FROM data GROUP BY region ORDER BY total DESC"
    done = output(recorder, inline=SALES, sql=sql)
    assert done["table"] == {
        "name": "data",
        "source": "inline",
        "rows": 4,
        "columns": [
            {"name": "region", "type": "VARCHAR"},
            {"name": "amount", "type": "DOUBLE"},
            {"name": "day", "type": "DATE"},
        ],
    }
    assert [entry["column"] for entry in done["profile"]] == ["region", "amount", "day"]
    assert done["profile"][1] == {
        "column": "amount", "type": "DOUBLE", "nulls": 1, "distinct": 3, "min": 1.5, "max": 4, "mean": 2.5,
    }  # fmt: skip
    assert done["query"] == {
        "sql": sql,
        "columns": [{"name": "region", "type": "VARCHAR"}, {"name": "total", "type": "DOUBLE"}],
        "rows": [["south", 6], ["north", 1.5]],
        "row_count": 2,
        "truncated": False,
    }
    assert (done["chart"]["kind"], done["chart"]["title"]) == ("bar", "Total by region")
    assert done["chart"]["svg"].startswith("<svg")


def test_without_sql_the_table_itself_is_drawn(recorder: Recorder) -> None:
    done = output(recorder, inline=SALES)
    assert done["query"] is None
    assert (done["chart"]["kind"], done["chart"]["x"]) == ("bar", "region")


def test_the_chart_asked_for_is_drawn_of_the_result(recorder: Recorder) -> None:
    chart = {"kind": "line", "x": "day", "y": "double", "title": "Twice"}
    done = output(recorder, inline=SALES, sql="SELECT day, amount * 2 AS double FROM data", chart=chart)
    assert {key: done["chart"][key] for key in chart} == chart


def test_nothing_to_draw_is_no_failure(recorder: Recorder) -> None:
    assert output(recorder, inline="a,b\n")["chart"] is None
    assert output(recorder, inline=SALES, sql="SELECT 42")["chart"] is None


def test_json_lines_and_parquet_inline(recorder: Recorder, tmp_path: Path) -> None:
    assert output(recorder, inline='{"a": 1}\n{"a": 2}', format="jsonl")["table"]["rows"] == 2
    with duckdb.connect() as connection:
        connection.sql("SELECT range AS n FROM range(7)").to_parquet(str(tmp_path / "a.parquet"))
    encoded = base64.b64encode((tmp_path / "a.parquet").read_bytes()).decode()
    assert output(recorder, inline=encoded, format="parquet")["table"]["rows"] == 7


def test_progress_rises_to_one_with_a_note_each(recorder: Recorder) -> None:
    output(recorder, inline=SALES, sql="FROM data")
    steps = recorder.of(EventType.AGENT_PROGRESS)
    fractions = [step["fraction"] for step in steps]
    assert fractions == sorted(fractions)
    assert (fractions[0] > 0, fractions[-1]) == (True, 1.0)
    notes = [step["note"] for step in steps]
    assert "loading inline, 95 bytes" in notes
    assert [note for note in notes if note.startswith("profiled")] == [
        "profiled column 1 of 3: region", "profiled column 2 of 3: amount", "profiled column 3 of 3: day",
    ]  # fmt: skip
    assert "4 rows found" in notes
    thoughts = [thought["text"] for thought in recorder.of(EventType.AGENT_THINKING)]
    assert thoughts == ["reading the inline table", "inline has 4 rows in 3 columns; with gaps: amount"]
    assert [data["tool"] for data in recorder.of(EventType.TOOL_COMPLETED)] == ["data_helper"] * 4


def test_progress_of_a_wide_table_is_not_a_flood(recorder: Recorder) -> None:
    wide = ",".join(f"c{n}" for n in range(250))
    output(recorder, inline=f"{wide}\n{wide}\n")
    assert len(recorder.of(EventType.AGENT_PROGRESS)) < 30


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inline": "a,b\n1\n"}, "inline: line 2 has 1 value, the first line 2 columns"),
        ({"inline": "$$$", "format": "parquet"}, "inline is not base64, which Parquet needs here"),
        ({"inline": SALES, "sql": "SELECT amout FROM data"}, 'Candidate bindings: "amount"'),
        ({"inline": SALES, "sql": "DROP TABLE data"}, "only reading statements"),
        ({"inline": SALES, "chart": {"kind": "bar", "x": "regoin"}}, "did you mean 'region'?"),
    ],
)
def test_what_is_wrong_fails_the_run_in_plain_words(recorder: Recorder, given: dict[str, Any], message: str) -> None:
    result = run_agent(recorder, **given)
    assert result.state is ExecutionState.FAILED
    assert result.error is not None
    assert message in result.error["message"]
    assert "Traceback" not in result.error["message"]
    assert len(recorder.of(EventType.TOOL_FAILED)) == 1


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({}, "give either document or inline"),
        ({"document": "a.csv", "inline": "a"}, "give either document or inline"),
        ({"inline": "a" * (256 * 1024 + 1)}, "inline\n  String should have at most 262144 characters"),
        ({"inline": "a", "format": "xlsx"}, "format\n  Input should be 'csv', 'jsonl' or 'parquet'"),
        ({"inline": "a", "sql": "x" * 10_001}, "sql\n  String should have at most 10000 characters"),
        ({"inline": "a", "chart": {"kind": "pie", "x": "a"}}, "chart.kind\n  Input should be 'bar', 'line'"),
        ({"inline": "a", "join": ["b.csv"] * 5}, "join\n  List should have at most 4 items"),
        ({"inline": "a", "sq": "SELECT 1"}, "sq\n  Extra inputs are not permitted"),
    ],
)
def test_wrong_input_names_field_and_limit(given: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as told:
        DataInput.model_validate(given)
    assert field in str(told.value)


def test_a_mistake_of_the_whole_input_names_no_field() -> None:
    with pytest.raises(ValidationError) as told:
        DataInput.model_validate({})
    assert describe_error(told.value)["message"] == "give either document or inline"


def test_the_largest_honest_output_fits(recorder: Recorder) -> None:
    columns = [f"{'c' * 100}{n}" for n in range(250)]
    lines = [",".join(columns), *(",".join(f"{'é' * 60}{n % 3}{row}" for n in range(250)) for row in range(7))]
    done = output(recorder, inline="\n".join(lines), sql="FROM data, range(500)")
    assert done["query"]["truncated"]
    assert len(json.dumps(done, ensure_ascii=False).encode()) < 1024 * 1024


def test_actions_work_on_the_table_that_was_opened_last(recorder: Recorder) -> None:
    system = tool_system(recorder, a_context())
    with pytest.raises(ToolError, match="no table is open"):
        system.call("data_helper", action="profile")
    system.call("data_helper", action="open", inline="a\n1\n2")
    assert system.call("data_helper", action="query", sql="SELECT sum(a) FROM data")["rows"] == [[3]]
    system.call("data_helper", action="open", inline="b\n5\n")
    assert [entry["column"] for entry in system.call("data_helper", action="profile")["columns"]] == ["b"]
    with pytest.raises(ToolError, match="line 2 has 1 value"):
        system.call("data_helper", action="open", inline="a,b\n1\n")
    with pytest.raises(ToolError, match="no table is open"):
        system.call("data_helper", action="profile")
    with pytest.raises(ToolError, match="does not match any of the expected tags"):
        system.call("data_helper", action="drop")


def test_nothing_of_a_run_outlives_its_tool_system(recorder: Recorder) -> None:
    system = tool_system(recorder, a_context())
    system.call("data_helper", action="open", inline=SALES)
    tool = system.registry.get("data_helper")
    assert isinstance(tool, DataHelperTool)
    seen = (weakref.ref(tool), weakref.ref(tool._tables))
    system.close()
    del tool, system
    gc.collect()
    assert (seen[0](), seen[1]()) == (None, None)
