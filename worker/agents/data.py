"""`data`: looks at the user's table, answers SQL about it, draws it."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, Field

from shared.context import UserExecutionContext
from worker.authoring import Agent, AgentRun, Tool
from worker.tools.data_helper import ChartSpec, DataHelperTool, Sql, TableSource


class DataInput(TableSource):
    """A table, and what to find out about it."""

    sql: Sql | None = Field(
        None,
        description="one reading statement in DuckDB's SQL; the table is `data`",
        examples=["SELECT region, sum(amount) AS total FROM data GROUP BY region ORDER BY total DESC"],
    )
    chart: ChartSpec | None = Field(
        None, description="of the query's result, or of the table if there is no sql; left out: what suits the columns"
    )


class Data(Agent):
    """Profiles a table of yours (CSV, JSON Lines or Parquet), answers read-only SQL about it and draws a chart."""

    name: ClassVar[str] = "data"
    Input: ClassVar[type[BaseModel]] = DataInput
    tools: ClassVar[tuple[type[Tool], ...]] = (DataHelperTool,)
    time_limit_s: ClassVar[float] = 120

    def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, Any]:
        """Returns `table`, `joined`, `profile`, `query` (None without sql) and `chart` (None if nothing suits)."""
        del context
        given: DataInput = run.input
        helper = run.tools.call
        run.emit.thinking(f"reading {given.document or 'the inline table'}")
        opened = helper("data_helper", action="open", **given.model_dump(include=set(TableSource.model_fields)))
        profile = helper("data_helper", action="profile")["columns"]
        run.emit.thinking(_impression(opened["table"], profile))
        query = helper("data_helper", action="query", sql=given.sql) if given.sql else None
        chart = helper(
            "data_helper",
            action="chart",
            of="result" if query else "data",
            chart=given.chart.model_dump() if given.chart else None,
        )["chart"]
        run.emit.progress(1.0, "done")
        return {**opened, "profile": profile, "query": query, "chart": chart}


def _impression(table: dict[str, Any], profile: list[dict[str, Any]]) -> str:
    gaps = [entry["column"] for entry in profile if entry["nulls"]]
    text = f"{table['source']} has {table['rows']:,} rows in {len(profile)} columns"
    return f"{text}; with gaps: {', '.join(gaps[:5])}{', …' if len(gaps) > 5 else ''}" if gaps else text  # noqa: PLR2004
