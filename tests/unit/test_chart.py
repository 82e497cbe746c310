"""Charts: which one, its points against an independent count, and an SVG that is sound whatever is in the data."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.tools.axis import nice_step, number_axis, time_axis
from worker.tools.chart import Chart, Kind
from worker.tools.plot import MAX_BARS, MAX_DOTS, MAX_LINE_POINTS, ChartError, Plot, draw, suits_result, suits_table
from worker.tools.tables import QueryError, Source, Tables
from worker.tools.tables.profile import profile

NS = "{http://www.w3.org/2000/svg}"
SALES = [
    (number, f"2024-{1 + number % 12:02}-15", ("north", "south", "south", "east")[number % 4], number * 1.25)
    for number in range(600)
]


@pytest.fixture(scope="module")
def tables() -> Tables:
    lines = ["id,day,region,amount", *(",".join(map(str, row)) for row in SALES)]
    return Tables([Source("sales.csv", "\n".join(lines).encode(), "csv")])


def asked(sql: str) -> Tables:
    tables = Tables([Source("a.csv", b"a\n1\n", "csv")])
    tables.query(sql)
    return tables


def parsed(svg: str) -> ET.Element:
    return ET.fromstring(svg)  # noqa: S314 - our own output, and it has to be plain XML


def all_texts(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter(f"{NS}text")]


def a_chart(kind: Kind = "bar", points: Sequence[tuple[Any, float]] = (("a", 1.0), ("b", 2.0)), **more: Any) -> Chart:
    return Chart(**({"kind": kind, "title": "T", "x_label": "x", "y_label": "y", "points": points} | more))


# ------------------------------------------------------------------------------------------------------------- axes

finite = st.floats(-1e300, 1e300)


@given(finite, finite, st.integers(2, 12), st.booleans(), st.booleans())
def test_ticks_of_numbers(one: float, other: float, count: int, tight: bool, whole: bool) -> None:  # noqa: FBT001
    low, high = sorted(map(float, map(math.floor, (one, other)))) if whole else sorted((one, other))
    axis = number_axis(low, high, count, tight=tight, whole=whole)
    slack = (axis.high - axis.low) * 1e-6
    assert axis.low - slack <= low <= high <= axis.high + slack
    assert len(axis.ticks) <= count + 3
    assert len(axis.labels) == len(axis.ticks)
    assert list(axis.ticks) == sorted(axis.ticks)
    if not tight:
        assert len(axis.ticks) >= 2
    place = axis.scale(100, 500)
    assert all(99 <= place(tick) <= 501 for tick in axis.ticks)


@pytest.mark.parametrize(
    ("low", "high", "labels"),
    [
        (0, 100, ["0", "20", "40", "60", "80", "100"]),
        (-3, 7.2, ["-4", "-2", "0", "2", "4", "6", "8"]),
        (0, 1.1, ["0", "0.2", "0.4", "0.6", "0.8", "1.0", "1.2"]),
        (0, 4_600_000, ["0", "1M", "2M", "3M", "4M", "5M"]),
        (1_000, 1_900, ["1,000", "1,200", "1,400", "1,600", "1,800", "2,000"]),
    ],
)
def test_number_labels(low: float, high: float, labels: list[str]) -> None:
    assert number_axis(low, high, 6).labels == labels


def test_counts_have_no_half_ticks() -> None:
    assert number_axis(0, 2, 5, whole=True).labels == ["0", "1", "2"]


@given(st.floats(1e-290, 1e300), st.integers(1, 30))
def test_steps_are_one_two_or_five(span: float, count: int) -> None:
    step = nice_step(span, count)
    assert step * count >= span * (1 - 1e-6)
    assert any(math.isclose(step / 10.0 ** math.floor(math.log10(step) + 1e-9), n) for n in (1, 2, 5, 10))


@given(st.datetimes(datetime(1, 1, 1), datetime(9998, 1, 1)), st.floats(1, 300 * 366 * 86_400))  # noqa: DTZ001
def test_ticks_of_time(start: datetime, seconds: float) -> None:
    low = (start.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()
    axis = time_axis(low, low + seconds)
    assert len(axis.ticks) <= 8
    assert all(low <= tick <= low + seconds for tick in axis.ticks)
    assert len(set(axis.labels)) == len(axis.labels) == len(axis.ticks)


def test_time_labels_follow_the_span() -> None:
    start = datetime(2024, 1, 1, tzinfo=UTC)

    def labels(**span: float) -> Sequence[str]:
        return time_axis(start.timestamp(), (start + timedelta(**span)).timestamp()).labels

    assert labels(minutes=10)[:3] == ["00:00", "00:02", "00:04"]
    assert labels(days=6)[:2] == ["01 Jan 2024", "02 Jan 2024"]
    assert labels(days=300)[:3] == ["Jan 2024", "Mar 2024", "May 2024"]
    assert labels(days=3_700)[:3] == ["2024", "2026", "2028"]


# -------------------------------------------------------------------------------------------------------------- svg

odd_text = st.text(st.characters(), max_size=40)  # lone surrogates and control characters included


@given(odd_text, st.lists(st.tuples(odd_text, st.floats(-1e300, 1e300)), min_size=1, max_size=8))
def test_whatever_is_in_the_data_the_svg_is_sound_and_inert(title: str, points: list[tuple[str, float]]) -> None:
    svg = a_chart(points=points, title=title, note=title, x_label=title, y_label=title).svg()
    root = parsed(svg)
    svg.encode()
    names = {element.tag.removeprefix(NS) for element in root.iter()}
    assert names <= {"svg", "title", "desc", "style", "text", "rect", "line", "path"}
    attributes = {name for element in root.iter() for name in element.attrib}
    assert not [name for name in attributes if name.startswith("on") or "href" in name]


def test_text_is_told_and_not_run() -> None:
    svg = a_chart(points=[("<script>alert(1)</script>&", 1)], title='<b>"&').svg()
    assert "<script" not in svg
    assert '<b>"&' in all_texts(svg)
    assert parsed(svg).find(f"{NS}title").text == '<b>"&'  # type: ignore[union-attr]
    assert parsed(svg).get("role") == "img"


def test_bars_are_as_long_as_their_values() -> None:
    svg = a_chart(points=[("a", 10.0), ("b", 5.0), ("c", -10.0)]).svg()
    widths = [float(element.get("width", "")) for element in parsed(svg).iter(f"{NS}rect")]
    lefts = [float(element.get("x", "")) for element in parsed(svg).iter(f"{NS}rect")]
    assert widths[0] == pytest.approx(2 * widths[1], abs=0.2)
    assert widths[2] == pytest.approx(widths[0], abs=0.2)
    assert lefts[2] + widths[2] == pytest.approx(lefts[0], abs=0.2)  # the negative one ends where the others begin


@pytest.mark.parametrize("kind", ["line", "scatter", "histogram"])
@given(points=st.lists(st.tuples(finite, finite), min_size=1, max_size=20))
def test_everything_lies_inside_the_picture(kind: Kind, points: list[tuple[float, float]]) -> None:
    if kind == "histogram":
        points = [(x / 1e10, abs(y)) for x, y in points]
    root = parsed(a_chart(kind, sorted(points), bin_width=1.0 if kind == "histogram" else 0.0).svg())
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for element in root.iter():
        for name, value in element.attrib.items():
            if name in {"x", "x1", "x2", "y", "y1", "y2"}:
                assert 0 <= float(value) <= (width if name.startswith("x") else height)
        for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", element.get("d", "")):
            assert 0 <= float(x) <= width
            assert 0 <= float(y) <= height


# ------------------------------------------------------------------------------------------------------------- plot


def test_bars_count_and_add_up(tables: Tables) -> None:
    counts = Counter(region for _, _, region, _ in SALES)
    assert dict(draw(tables, "data", Plot("bar", "region")).points) == counts
    summed = draw(tables, "data", Plot("bar", "REGION", "Amount"))
    assert dict(summed.points) == {
        name: sum(amount for *_, region, amount in SALES if region == name) for name in counts
    }
    assert (summed.title, summed.y_label) == ("Sum of amount by region", "sum of amount")
    assert summed.points[0][0] == max(dict(summed.points), key=lambda name: dict(summed.points)[name])


def test_bars_of_a_result_keep_its_order() -> None:
    tables = asked("SELECT * FROM (VALUES ('b', 1), ('c', 3), ('a', 2)) t(name, n)")
    assert draw(tables, "result", Plot("bar", "name", "n")).points == [("b", 1), ("c", 3), ("a", 2)]


def test_bars_over_dates_are_in_the_order_of_time(tables: Tables) -> None:
    days = [str(day) for day, _ in draw(tables, "data", Plot("bar", "day")).points]
    assert days == sorted(days)


def test_too_many_bars_are_the_largest_and_it_says_so() -> None:
    tables = asked("SELECT 'n' || (i % 50) AS name, i FROM range(500) t(i)")
    chart = draw(tables, "result", Plot("bar", "name", "i"))
    assert (len(chart.points), chart.note) == (MAX_BARS, f"the first {MAX_BARS} of 50")


def test_a_line_is_the_mean_per_place(tables: Tables) -> None:
    chart = draw(tables, "data", Plot("line", "day", "amount"))
    january = [amount for _, day, _, amount in SALES if day == "2024-01-15"]
    assert chart.x_is_time
    assert chart.points[0] == (datetime(2024, 1, 15, tzinfo=UTC).timestamp(), sum(january) / len(january))
    assert chart.y_label == "mean of amount"


def test_a_long_line_is_drawn_in_steps() -> None:
    tables = asked("SELECT i, 2.0 * i AS y FROM range(10000) t(i)")
    chart = draw(tables, "result", Plot("line", "i", "y"))
    assert len(chart.points) <= MAX_LINE_POINTS
    assert chart.note == "means of 10,000 values of i, in 200 steps"
    assert all(y == pytest.approx(2 * float(x), abs=60) for x, y in chart.points)


def test_a_line_over_words_keeps_their_order() -> None:
    chart = draw(asked("SELECT * FROM (VALUES ('Jan', 1), ('Feb', 2)) t(m, n)"), "result", Plot("line", "m", "n"))
    assert (chart.points, chart.labels) == ([(0.0, 1), (1.0, 2)], ["Jan", "Feb"])
    assert {"Jan", "Feb"} <= set(all_texts(chart.svg()))


def test_histogram_counts_every_row_once(tables: Tables) -> None:
    chart = draw(tables, "data", Plot("histogram", "amount"))
    assert sum(count for _, count in chart.points) == len(SALES)
    for edge, count in chart.points:
        low = float(edge)
        assert count == sum(low <= amount < low + chart.bin_width for *_, amount in SALES)


@settings(max_examples=25)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60))
def test_histogram_of_anything(values: list[float]) -> None:
    content = "x\n" + "\n".join(map(repr, values))
    tables = Tables([Source("a.csv", content.encode(), "csv")])
    chart = draw(tables, "data", Plot("histogram", "x"))
    assert sum(count for _, count in chart.points) == len(values)
    assert len(chart.points) <= 32
    parsed(chart.svg())


def test_scatter_of_many_rows_is_a_sample_that_repeats() -> None:
    tables = asked("SELECT i, i % 7 AS y FROM range(5000) t(i)")
    first, second = (draw(tables, "result", Plot("scatter", "i", "y")) for _ in range(2))
    assert first == second
    assert (len(first.points), first.note) == (MAX_DOTS, "a sample of 1,000 of 5,000 rows")


@pytest.mark.parametrize(
    ("plot", "message"),
    [
        (Plot("bar", "regoin"), "chart.x: no column is called 'regoin'; did you mean 'region'?; there are: id, day"),
        (Plot("bar", "region", "day"), "chart.y: 'day' is DATE, a number is needed"),
        (Plot("scatter", "region", "amount"), "chart.x: 'region' is VARCHAR, a scatter needs a number or a date"),
        (Plot("scatter", "id"), "chart.y: a scatter chart needs a number"),
        (Plot("histogram", "region"), "chart.x: 'region' is VARCHAR, a histogram needs"),
        (Plot("histogram", "id", "amount"), "chart.y: a histogram counts rows"),
    ],
)
def test_a_chart_that_cannot_be_says_why(tables: Tables, plot: Plot, message: str) -> None:
    with pytest.raises(ChartError) as told:
        draw(tables, "data", plot)
    assert message in str(told.value)


@pytest.mark.parametrize("kind", ["bar", "line", "scatter", "histogram"])
@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT 1 AS x, 2 AS y WHERE false", "nothing to draw"),
        ("SELECT 'nan'::DOUBLE AS x, 1 AS y", "nothing to draw"),
        ("SELECT 1e308 AS x, 1e308 AS y UNION ALL SELECT -1e308, -1e308", "no axis|too large"),
        ("SELECT [1] AS x, 2 AS y", "no place on an axis"),
    ],
)
def test_odd_columns_are_refused(kind: Kind, sql: str, message: str) -> None:
    with pytest.raises(ChartError, match=message):
        draw(asked(sql), "result", Plot(kind, "x", None if kind == "histogram" else "y"))


@pytest.mark.parametrize("kind", ["bar", "line", "scatter", "histogram"])
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 5 AS x, 7 AS y",
        "SELECT 5e-324 AS x, 1e16 AS y UNION ALL SELECT 0, 1e16 + 2",
        "SELECT i::HUGEINT AS x, i::DECIMAL(38, 10) AS y FROM range(3) t(i)",
        "SELECT TIMESTAMP '290309-12-22 (BC) 00:00:00' AS x, 1 AS y UNION ALL SELECT TIMESTAMP '294247-01-10', 3",
        "SELECT DATE '2024-02-29' AS x, NULL::INT AS y UNION ALL SELECT NULL, 3 UNION ALL SELECT DATE '2024-01-01', 1",
        "SELECT x, 1 AS y FROM (VALUES ('infinity'::TIMESTAMP), (TIMESTAMP '2024-01-01')) t(x)",
    ],
)
def test_odd_values_are_drawn(kind: Kind, sql: str) -> None:
    parsed(draw(asked(sql), "result", Plot(kind, "x", None if kind == "histogram" else "y")).svg())


def test_no_result_yet(tables: Tables) -> None:
    with pytest.raises(QueryError, match="result does not exist"):
        draw(tables, "result", Plot("bar", "x"))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("id,town,n\n" + "".join(f"{n},{'ab'[n % 2]},{n / 3}\n" for n in range(20)), Plot("bar", "town")),
        ("day,n\n" + "".join(f"2024-01-{n + 1:02},{n * 0.3}\n" for n in range(20)), Plot("line", "day", "n")),
        ("id,n\n" + "".join(f"{n},{n * 0.3}\n" for n in range(20)), Plot("histogram", "n")),
        ("id,name\n" + "".join(f"{n},name{n}\n" for n in range(20)), None),
        ("a,b\n", None),
    ],
)
def test_the_chart_that_suits_a_table(content: str, expected: Plot | None) -> None:
    tables = Tables([Source("a.csv", content.encode(), "csv")])
    table = tables.tables[0]
    assert suits_table(list(profile(tables, table)), table.columns, table.rows) == expected


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("SELECT 'a' AS k, 1 AS n UNION ALL SELECT 'b', 2", Plot("bar", "k", "n")),
        ("SELECT 1.5 AS n, DATE '2024-01-01' + i::INT AS d FROM range(3) t(i)", Plot("line", "d", "n")),
        ("SELECT i, i * i AS n FROM range(3) t(i)", Plot("line", "i", "n")),
        ("SELECT i FROM range(30) t(i)", Plot("histogram", "i")),
        ("SELECT 'a' AS k FROM range(3)", None),
        ("SELECT 42", None),
    ],
)
def test_the_chart_that_suits_a_result(sql: str, expected: Plot | None) -> None:
    result = asked(sql).read("result")
    assert suits_result(result.columns, result.row_count) == expected
