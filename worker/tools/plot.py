"""From columns to a chart: which one suits, and its points, worked out in SQL over all rows."""

# ruff: noqa: S608 - the names in this SQL are quoted, the rest is our own
from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from shared.errors import LanewiseError
from worker.tools.axis import nice_step
from worker.tools.chart import Chart, Kind
from worker.tools.tables import Column, Tables, quote

MAX_BARS = 30
MAX_LINE_POINTS = 400
MAX_DOTS = 1_000
_LINE_BUCKETS = 200
_MAX_CATEGORIES = 20
_MIN_FOR_HISTOGRAM = 10
_MAX_NUMBER = 1e300
_MIN_SPAN = 1e-290


class ChartError(LanewiseError):
    """The chart that was asked for cannot be drawn from these columns."""

    code, status, title = "bad_chart", 422, "Chart refused"


@dataclass(frozen=True)
class Plot:
    """What to draw of a relation: `y` may be left out (rows are counted)."""

    kind: Kind
    x: str
    y: str | None = None
    title: str | None = None


def suits_table(profile: Sequence[Mapping[str, Any]], columns: Sequence[Column], rows: int) -> Plot | None:
    """Returns the chart that says most about a table: a category's counts, a course in time, or a distribution."""
    kinds = {column.name: column for column in columns}
    full = [entry for entry in profile if entry["nulls"] * 2 < max(rows, 1) and entry["distinct"] > 1]
    categories = [
        entry
        for entry in full
        if kinds[entry["column"]].categorical and entry["distinct"] <= min(_MAX_CATEGORIES, rows / 2)
    ]
    if categories:
        return Plot("bar", max(categories, key=lambda entry: entry["distinct"])["column"])
    numbers = [
        entry["column"]
        for entry in full
        if kinds[entry["column"]].numeric
        and not (kinds[entry["column"]].integral and entry["distinct"] == rows - entry["nulls"])
    ]
    times = [entry["column"] for entry in full if kinds[entry["column"]].temporal]
    if times and numbers:
        return Plot("line", times[0], numbers[0])
    return Plot("histogram", numbers[0]) if numbers and rows >= _MIN_FOR_HISTOGRAM else None


def suits_result(columns: Sequence[Column], rows: int | None) -> Plot | None:
    """Returns the chart that suits the result of a query: its first column against its first other number.

    Args:
        columns: of the result.
        rows: how many it has, None for more than are counted.
    """
    if rows is not None and rows <= 1:
        return None
    x = next((column for column in columns if column.categorical or column.temporal), columns[0])
    y = next((column for column in columns if column.numeric and column is not x), None)
    if x.numeric and y is None:
        return Plot("histogram", x.name) if rows is None or rows >= _MIN_FOR_HISTOGRAM else None
    if y is None or x.nested:
        return None
    return Plot("line" if x.temporal or x.numeric else "bar", x.name, y.name)


def draw(tables: Tables, relation: str, plot: Plot) -> Chart:
    """Returns the chart of a relation.

    Args:
        tables: where it is.
        relation: the name of a table, `result` for that of the last query.
        plot: columns by name, upper and lower case alike.

    Raises:
        ChartError: a column that is not there or does not suit the kind, or nothing to draw.
        QueryError: past a limit.
    """
    columns = tables.columns(quote(relation))
    x = _column(columns, "x", plot.x)
    y = _column(columns, "y", plot.y) if plot.y else None
    if y is not None and not y.numeric:
        raise ChartError(f"chart.y: {y.name!r} is {y.short_type}, a number is needed")
    if x.nested:
        raise ChartError(f"chart.x: {x.name!r} is {x.short_type}, which has no place on an axis")
    make = {"bar": _bar, "line": _line, "scatter": _scatter, "histogram": _histogram}[plot.kind]
    chart = make(_Data(tables, relation, x, y, plot.title))
    if not chart.points:
        raise ChartError(f"there is nothing to draw: {x.name!r} has no values" + (f" with {y.name!r}" if y else ""))
    for place in (value for point in chart.points for value in point if isinstance(value, float)):
        if not abs(place) <= _MAX_NUMBER:
            raise ChartError(f"{place:g} is too large for an axis; the limit is {_MAX_NUMBER:g}")
    return chart


@dataclass(frozen=True)
class _Data:
    tables: Tables
    relation: str
    x: Column
    y: Column | None
    title: str | None

    def rows(self, sql: str, limit: int) -> list[list[Any]]:
        return self.tables.rows(f"({sql})", max_rows=limit)

    @property
    def place(self) -> str:
        """The SQL of x as a number: times as seconds since 1970."""
        name = quote(self.x.name)
        return f"epoch({name})" if self.x.temporal else f"{name}::DOUBLE"

    @property
    def height(self) -> str:
        """The SQL of y as a number."""
        return f"{quote(self.y.name)}::DOUBLE" if self.y else "1.0"

    @property
    def finite(self) -> str:
        """The SQL condition that x and y can be placed."""
        conditions = [f"isfinite({self.place})"] if self.x.numeric or self.x.temporal else []
        conditions += [f"isfinite({self.height})"] if self.y else []
        return " AND ".join(conditions) or "true"

    def y_name(self, *, several: bool, how: str) -> str:
        """How the vertical is called, if several rows share an x."""
        if self.y is None:
            return "rows"
        return f"{how} of {self.y.name}" if several else self.y.name


def _bar(data: _Data) -> Chart:
    ordered = data.x.numeric or data.x.temporal
    value = "sum(v)" if data.y else "count(*)"
    # A query's result stays in its own order, which its author chose.
    order = "min(x)" if ordered else "min(place)" if data.relation == "result" else f"{value} DESC, min(x)"
    rows = data.rows(
        f"SELECT min(x)::VARCHAR, ({value})::DOUBLE, count(*), count(*) OVER () FROM "
        f"(SELECT {quote(data.x.name)} AS x, {data.height} AS v, rowid AS place FROM {quote(data.relation)} "
        f"WHERE {data.finite}) GROUP BY x ORDER BY {order}",
        MAX_BARS,
    )
    several = any(count > 1 for *_, count, _ in rows)
    label = data.y_name(several=several, how="sum")
    total = rows[0][3] if rows else 0
    first = "largest" if order.startswith(value) else "first"
    return Chart(
        kind="bar",
        title=data.title or f"{_capital(label)} by {data.x.name}",
        x_label=data.x.name,
        y_label=label,
        points=[("(none)" if x is None else x, y) for x, y, *_ in rows if y is not None],
        note=f"the {first} {MAX_BARS} of {total:,}" if total > MAX_BARS else "",
        y_is_whole=data.y is None or data.y.integral,
    )


def _line(data: _Data) -> Chart:
    if not (data.x.numeric or data.x.temporal):
        return _line_of_categories(data)
    place, note = data.place, ""
    source = f"FROM {quote(data.relation)} WHERE {data.finite}"
    value = f"avg({data.height})" if data.y else "count(*)::DOUBLE"
    low, high, places = data.rows(f"SELECT min({place}), max({place}), count(DISTINCT {place}) {source}", 1)[0]
    if places > MAX_LINE_POINTS:
        width = _span(low, high, data.x) / _LINE_BUCKETS
        place = f"{low} + (least(floor(({place} - ({low})) / {width}), {_LINE_BUCKETS - 1}) + 0.5) * {width}"
        note = f"means of {places:,} values of {data.x.name}, in {_LINE_BUCKETS} steps"
    rows = data.rows(f"SELECT {place}, {value}, count(*) {source} GROUP BY 1 ORDER BY 1", MAX_LINE_POINTS)
    label = data.y_name(several=any(count > 1 for *_, count in rows), how="mean")
    return Chart(
        kind="line",
        title=data.title or f"{_capital(label)} by {data.x.name}",
        x_label=data.x.name,
        y_label=label,
        points=[(x, y) for x, y, _ in rows],
        note=note,
        x_is_time=data.x.temporal,
        x_is_whole=data.x.integral,
        y_is_whole=data.y is None,
    )


def _line_of_categories(data: _Data) -> Chart:
    bars = _bar(data)
    return Chart(
        kind="line",
        title=bars.title,
        x_label=bars.x_label,
        y_label=bars.y_label,
        points=[(float(n), y) for n, (_, y) in enumerate(bars.points)],
        note=bars.note,
        y_is_whole=bars.y_is_whole,
        labels=[str(x) for x, _ in bars.points],
    )


def _scatter(data: _Data) -> Chart:
    if data.y is None:
        raise ChartError("chart.y: a scatter chart needs a number")
    _needs_place(data.x, "scatter")
    source = f"FROM {quote(data.relation)} WHERE {data.finite}"
    total = data.rows(f"SELECT count(*) {source}", 1)[0][0]
    rows = data.rows(
        f"FROM (SELECT {data.place}, {data.height} {source}) USING SAMPLE reservoir({MAX_DOTS} ROWS) REPEATABLE (1)",
        MAX_DOTS,
    )
    return Chart(
        kind="scatter",
        title=data.title or f"{_capital(data.y.name)} against {data.x.name}",
        x_label=data.x.name,
        y_label=data.y.name,
        points=[(x, y) for x, y in rows],
        note=f"a sample of {MAX_DOTS:,} of {total:,} rows" if total > MAX_DOTS else "",
        x_is_time=data.x.temporal,
    )


def _histogram(data: _Data) -> Chart:
    _needs_place(data.x, "histogram")
    if data.y is not None:
        raise ChartError("chart.y: a histogram counts rows and takes no y")
    source = f"FROM {quote(data.relation)} WHERE {data.finite}"
    low, high, count = data.rows(f"SELECT min({data.place}), max({data.place}), count(*) {source}", 1)[0]
    if not count:
        return Chart("histogram", "", data.x.name, "rows", ())
    bins = min(30, max(5, round(2 * count ** (1 / 3))))
    span = _span(low, high, data.x)
    width = nice_step(span if span > _MIN_SPAN else 1.0, bins)
    width = max(width, 1.0) if data.x.integral else width
    rows = data.rows(f"SELECT floor({data.place} / {width}), count(*) {source} GROUP BY 1 ORDER BY 1", 2 * bins + 2)
    return Chart(
        kind="histogram",
        title=data.title or f"Distribution of {data.x.name}",
        x_label=data.x.name,
        y_label="rows",
        points=[(number * width, float(rows_in)) for number, rows_in in rows],
        x_is_time=data.x.temporal,
        x_is_whole=data.x.integral,
        y_is_whole=True,
        bin_width=width,
    )


def _span(low: float, high: float, column: Column) -> float:
    if not math.isfinite(high - low):
        raise ChartError(f"{column.name!r} reaches from {low:g} to {high:g}, which no axis can show")
    return high - low


def _needs_place(column: Column, kind: str) -> None:
    if not (column.numeric or column.temporal):
        raise ChartError(f"chart.x: {column.name!r} is {column.short_type}, a {kind} needs a number or a date")


def _column(columns: Sequence[Column], field: str, name: str) -> Column:
    names = {column.name.casefold(): column for column in columns}
    found = names.get(name.casefold())
    if found is None:
        near = difflib.get_close_matches(name.casefold(), names, n=1)
        hint = f"; did you mean {names[near[0]].name!r}?" if near else ""
        raise ChartError(
            f"chart.{field}: no column is called {name!r}{hint}; there are: "
            f"{', '.join(column.name for column in columns[:20])}{', …' if len(columns) > 20 else ''}"  # noqa: PLR2004
        )
    return found


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
