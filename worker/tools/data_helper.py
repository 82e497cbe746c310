"""`DataHelperTool`: a user's tables for an agent to look at, ask and draw."""

from __future__ import annotations

import base64
import binascii
import difflib
import threading
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import sqlalchemy as sa
from pydantic import BaseModel, ConfigDict, Field, RootModel, model_validator

from shared.context import UserExecutionContext
from worker.authoring import Tool, ToolError
from worker.tools.chart import Kind
from worker.tools.plot import Plot, draw, suits_result, suits_table
from worker.tools.tables import Column, Format, Source, Table, TableError, Tables, format_of
from worker.tools.tables.profile import profile
from worker.toolscope import ToolScope

MAX_JOINED = 4
# Where each action lies on the way from 0 to 1, when they are called in this order.
_SPANS = {"open": (0.05, 0.2), "profile": (0.2, 0.6), "query": (0.6, 0.85), "chart": (0.85, 0.95)}
_PROGRESS_STEPS = 20

Sql = Annotated[str, Field(min_length=1, max_length=10_000)]
DocumentName = Annotated[str, Field(min_length=1, max_length=255)]


class Strict(BaseModel):
    """A model that refuses fields it does not know: a misspelt one should not be passed over."""

    model_config = ConfigDict(extra="forbid")


class TableSource(Strict):
    """Where a table comes from: a document of the user's, or text in the request itself."""

    document: DocumentName | None = Field(
        None, description="name of an uploaded document: CSV, JSON Lines or Parquet", examples=["sales.csv"]
    )
    inline: str | None = Field(
        None,
        min_length=1,
        max_length=256 * 1024,
        description="the table itself instead of a document; Parquet in base64",
        examples=["city,people\nOslo,717710\nBergen,291940"],
    )
    format: Format = Field("csv", description="of `inline`; a document's name or content type tells its own")
    join: list[DocumentName] = Field(
        default_factory=list,
        max_length=MAX_JOINED,
        description="further documents for the SQL, each a table named after its file (`stores` for stores.csv)",
        examples=[["stores.csv"]],
    )

    @model_validator(mode="after")
    def _one_source(self) -> TableSource:
        if (self.document is None) == (self.inline is None):
            raise ValueError("give either document or inline")
        return self


class ChartSpec(Strict):
    """What to draw."""

    kind: Kind = Field(description="bar and line take any x, scatter and histogram a number or a date")
    x: str = Field(min_length=1, max_length=128, description="column along the chart", examples=["region"])
    y: str | None = Field(
        None,
        min_length=1,
        max_length=128,
        description="number column, else rows are counted; of rows that share an x, bars show the sum, lines the mean",
        examples=["amount"],
    )
    title: str | None = Field(None, min_length=1, max_length=120, description="instead of one made from the columns")


class OpenTable(TableSource):
    """Loads the table, as `data` and under its file's name, and those to join. The other actions work on it."""

    action: Literal["open"]


class ProfileTable(Strict):
    """Describes each column of the open table."""

    action: Literal["profile"]


class QueryTable(Strict):
    """Runs one reading SQL statement; its result is the table `result`."""

    action: Literal["query"]
    sql: Sql = Field(description="one SELECT, WITH, FROM or DESCRIBE statement in DuckDB's SQL")


class DrawChart(Strict):
    """Draws the last query's result, or the open table, as SVG."""

    action: Literal["chart"]
    of: Literal["data", "result"] = "data"
    chart: ChartSpec | None = Field(None, description="left out: what suits the columns")


class DataHelperParameters(RootModel[OpenTable | ProfileTable | QueryTable | DrawChart]):
    """One of the actions."""

    root: OpenTable | ProfileTable | QueryTable | DrawChart = Field(discriminator="action")


class DataHelperTool(Tool):
    """Opens a table (CSV, JSON Lines, Parquet), profiles its columns, answers reading SQL about it, draws charts."""

    name: ClassVar[str] = "data_helper"
    Parameters: ClassVar[type[BaseModel]] = DataHelperParameters
    time_limit_s: ClassVar[float] = 120  # of one action: the agent's own

    def __init__(self, scope: ToolScope) -> None:
        super().__init__(scope)
        self._turn = threading.Lock()  # calls may come at once; tables and `result` are one after the other's
        self._open: Tables | None = None
        self._profile: list[dict[str, Any]] | None = None

    def run(self, context: UserExecutionContext, parameters: DataHelperParameters) -> dict[str, Any]:
        """Does one action.

        Raises:
            ToolError: no table is open, or no document has that name.
            TableError: the document is no table.
            QueryError: the SQL is refused.
            ChartError: the chart cannot be drawn.
        """
        del context  # the scope's session already sees this user's rows only
        action = parameters.root
        with self._turn:
            match action:
                case OpenTable():
                    return self._open_tables(action)
                case ProfileTable():
                    return {"columns": self._profiled()}
                case QueryTable():
                    return self._query(action.sql)
                case DrawChart():
                    return {"chart": self._draw(action)}

    @property
    def _tables(self) -> Tables:
        if self._open is None:
            raise ToolError("no table is open: call the action 'open' first")
        return self._open

    def _open_tables(self, source: TableSource) -> dict[str, Any]:
        self._open = self._profile = None
        main = self._document(source.document) if source.document else self._inline(source.inline, source.format)
        sources = [main, *map(self._document, source.join)]
        self._progress("open", 0.5, f"loading {' and '.join(f'{s.name}, {_size(len(s.content))}' for s in sources)}")
        self._open = Tables(sources)
        table, *joined = map(_described, self._open.tables)
        self._progress("open", 1, f"{table['rows']:,} rows, {len(table['columns'])} columns")
        return {"table": table, "joined": joined}

    def _profiled(self) -> list[dict[str, Any]]:
        tables = self._tables
        if self._profile is None:
            table = tables.tables[0]
            done: list[dict[str, Any]] = []
            total = len(table.columns)
            every = -(-total // _PROGRESS_STEPS)
            for number, entry in enumerate(profile(tables, table), 1):
                done.append(entry)
                if number % every == 0 or number == total:
                    self._progress("profile", number / total, f"profiled column {number} of {total}: {entry['column']}")
            self._profile = done
        return self._profile

    def _query(self, sql: str) -> dict[str, Any]:
        self._progress("query", 0, "running the query")
        result = self._tables.query(sql)
        found = "more than a million" if result.row_count is None else f"{result.row_count:,}"
        self._progress("query", 1, f"{found} rows found")
        return {
            "sql": sql,
            "columns": _columns(result.columns),
            "rows": result.rows,
            "row_count": result.row_count,
            "truncated": result.truncated,
        }

    def _draw(self, action: DrawChart) -> dict[str, Any] | None:
        self._progress("chart", 0, "drawing")
        spec = action.chart
        plot = Plot(spec.kind, spec.x, spec.y, spec.title) if spec else self._suitable(action.of)
        if plot is None:
            return None
        chart = draw(self._tables, action.of, plot)
        self._progress("chart", 1, f"drew {chart.title}")
        return {"kind": chart.kind, "title": chart.title, "x": plot.x, "y": plot.y, "svg": chart.svg()}

    def _suitable(self, relation: str) -> Plot | None:
        if relation == "data":
            table = self._tables.tables[0]
            return suits_table(self._profiled(), table.columns, table.rows)
        result = self._tables.read(relation)
        return suits_result(result.columns, result.row_count)

    def _document(self, name: str) -> Source:
        self._progress("open", 0, f"reading {name}")
        with self.scope.db() as session:
            row = session.execute(
                sa.text("SELECT content, content_type FROM documents WHERE name = :name"), {"name": name}
            ).one_or_none()
            if row is None:
                names = session.execute(sa.text("SELECT name FROM documents ORDER BY name LIMIT 1000")).scalars().all()
                raise ToolError(_no_document(name, names))
        return Source(name, bytes(row.content), format_of(name, row.content_type))

    def _inline(self, content: str | None, kind: Format) -> Source:
        raw = (content or "").encode()
        if kind == "parquet":
            try:
                raw = base64.b64decode(raw, validate=True)
            except binascii.Error as error:
                raise TableError(f"inline is not base64, which Parquet needs here: {error}") from None
        return Source("inline", raw, kind)

    def _progress(self, action: str, part: float, note: str) -> None:
        start, end = _SPANS[action]
        self.scope.emit.progress(start + (end - start) * part, note)


def _no_document(name: str, names: Sequence[str]) -> str:
    if not names:
        return f"no document is called {name!r}: there are none yet (PUT /v1/documents/{name} makes it)"
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"no document is called {name!r}{hint}; there are: {', '.join(names[:20])}{', …' if len(names) > 20 else ''}"  # noqa: PLR2004


def _described(table: Table) -> dict[str, Any]:
    return {"name": table.name, "source": table.source, "rows": table.rows, "columns": _columns(table.columns)}


def _columns(columns: Sequence[Column]) -> list[dict[str, str]]:
    return [{"name": column.name, "type": column.short_type} for column in columns]


def _size(count: int) -> str:
    if count < 1000:  # noqa: PLR2004 - below one kB
        return f"{count} bytes"
    return f"{count / 1e6:.1f} MB" if count >= 1e6 else f"{count / 1e3:.1f} kB"  # noqa: PLR2004 - one MB
