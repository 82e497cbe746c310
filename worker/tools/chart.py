"""Writes one chart as SVG: text and shapes only, no script, no outside reference, readable on light and dark."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal
from xml.sax.saxutils import escape  # nosec B406  # writes XML, reads none

from worker.tools.axis import Axis, number_axis, time_axis

Kind = Literal["bar", "line", "scatter", "histogram"]

_WIDTH = 720
_HEIGHT = 400
_TITLE_Y = 30
_NOTE_Y = 50
_RIGHT = 24
_BAR_STEP = 26
_MAX_LABEL_CHARS = 28
_DOTS_UP_TO = 40
# As a document of its own (`:root`) the chart follows the reader's colour scheme; inside a page it takes the page's
# text colour, and `--lw-mark` if the page sets it.
_STYLE = (
    ".lw-chart:root{color:#1f2937;--lw-mark:#2563eb}"
    "@media (prefers-color-scheme:dark){.lw-chart:root{color:#e5e7eb;--lw-mark:#60a5fa}}"
    ".lw-chart .lw-fill{fill:var(--lw-mark,#3b82f6)}.lw-chart .lw-line{stroke:var(--lw-mark,#3b82f6)}"
)
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Chart:
    """What to draw.

    Attributes:
        points: `(x, y)`; x is a label for a bar, the lower edge of a bin for a histogram, seconds since 1970 if
            `x_is_time`, else a number.
        note: a line under the title, for what is not shown.
        x_is_whole: no ticks between whole numbers; `y_is_whole` likewise.
        bin_width: of a histogram, in x.
        labels: names of the positions 0, 1, 2, … of a line over categories.
    """

    kind: Kind
    title: str
    x_label: str
    y_label: str
    points: Sequence[tuple[float | str, float]]
    note: str = ""
    x_is_time: bool = False
    x_is_whole: bool = False
    y_is_whole: bool = False
    bin_width: float = 0.0
    labels: Sequence[str] = ()

    @property
    def top(self) -> int:
        """Where the drawing below title and note begins."""
        return (_NOTE_Y if self.note else _TITLE_Y) + 24

    def svg(self) -> str:
        """Returns the SVG document."""
        height, shapes = _bars(self) if self.kind == "bar" else _plane(self)
        head = [_text(24, _TITLE_Y, self.title, size=17, weight=600)]
        if self.note:
            head.append(_text(24, _NOTE_Y, self.note, muted=True))
        description = f"{self.kind} chart of {self.y_label} by {self.x_label}, {len(self.points)} points"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" class="lw-chart" viewBox="0 0 {_WIDTH} {_n(height)}" role="img" '
            f'font-family="system-ui, sans-serif" font-size="12"><title>{_escape(self.title)}</title>'
            f"<desc>{_escape(description)}</desc><style>{_STYLE}</style>{''.join(head)}{''.join(shapes)}</svg>"
        )


def _bars(chart: Chart) -> tuple[float, list[str]]:
    """Lies the bars down, so that labels of any length stay readable."""
    labels = [_cut(str(x)) for x, _ in chart.points]
    values = [y for _, y in chart.points]
    left = 40 + max(map(_text_width, labels))
    axis = number_axis(min(0.0, *values), max(0.0, *values), 6, whole=chart.y_is_whole)
    top = chart.top - 8
    bottom = top + 8 + _BAR_STEP * len(values)
    place = axis.scale(left, _WIDTH - _RIGHT - 40)
    shapes = [_grid(place(tick), top, place(tick), bottom) for tick in axis.ticks]
    shapes += [
        _text(place(tick), bottom + 18, label, anchor="middle", muted=True)
        for tick, label in zip(axis.ticks, axis.labels, strict=True)
    ]
    zero = place(0)
    for row, (label, value) in enumerate(zip(labels, values, strict=True)):
        y = top + 8 + row * _BAR_STEP
        x, end = min(zero, place(value)), max(zero, place(value))
        shapes.append(
            f'<rect class="lw-fill" fill="#3b82f6" x="{_n(x)}" y="{_n(y)}" width="{_n(max(end - x, 1))}" '
            f'height="{_BAR_STEP - 7}" rx="2"/>'
        )
        shapes.append(_text(left - 10, y + 14, label, anchor="end"))
        shapes.append(_text(end + 6, y + 14, _value(value), muted=True, size=11))
    shapes.append(_axis_line(zero, top, zero, bottom))
    shapes.append(_text((left + _WIDTH - _RIGHT) / 2, bottom + 40, chart.y_label, anchor="middle", muted=True))
    return bottom + 56, shapes


def _plane(chart: Chart) -> tuple[float, list[str]]:
    """Draws what has a horizontal and a vertical axis: lines, dots, bins."""
    xs = [float(x) for x, _ in chart.points]
    ys = [y for _, y in chart.points]
    low = min(0.0, *ys) if chart.kind == "histogram" else min(ys)
    vertical = number_axis(low, max(ys), 5, whole=chart.y_is_whole)
    horizontal = _horizontal(chart, min(xs), max(xs) + chart.bin_width)
    left = 34 + max(map(_text_width, vertical.labels))
    right, bottom = _WIDTH - _RIGHT - 8, _HEIGHT - 62
    place_x, place_y = horizontal.scale(left, right), vertical.scale(bottom, chart.top + 14)
    shapes = [_text(24, chart.top, chart.y_label, muted=True)]
    for tick, label in zip(vertical.ticks, vertical.labels, strict=True):
        shapes.append(_grid(left, place_y(tick), right, place_y(tick)))
        shapes.append(_text(left - 8, place_y(tick) + 4, label, anchor="end", muted=True))
    shapes += _marks(chart, [(place_x(x), place_y(y)) for x, y in zip(xs, ys, strict=True)], place_x, place_y(0))
    shapes.append(_axis_line(left, bottom, right, bottom))
    for tick, label in zip(horizontal.ticks, horizontal.labels, strict=True):
        shapes.append(_axis_line(place_x(tick), bottom, place_x(tick), bottom + 4))
        shapes.append(_text(place_x(tick), bottom + 19, label, anchor="middle", muted=True))
    shapes.append(_text((left + right) / 2, bottom + 44, chart.x_label, anchor="middle", muted=True))
    return _HEIGHT, shapes


def _horizontal(chart: Chart, low: float, high: float) -> Axis:
    if chart.x_is_time:
        return time_axis(low, high)
    if not chart.labels:
        return number_axis(low, high, 8, tight=True, whole=chart.x_is_whole)
    widest = max(_text_width(_cut(label)) for label in chart.labels)
    step = math.ceil(len(chart.labels) * (widest + 16) / (_WIDTH - 120))
    shown = range(0, len(chart.labels), step)
    return Axis(low, high, [float(n) for n in shown], [_cut(chart.labels[n]) for n in shown])


def _marks(
    chart: Chart, dots: Sequence[tuple[float, float]], place_x: Callable[[float], float], zero: float
) -> list[str]:
    if chart.kind == "histogram":
        width = place_x(chart.bin_width) - place_x(0)
        return [
            f'<rect class="lw-fill" fill="#3b82f6" x="{_n(x + 0.5)}" y="{_n(y)}" width="{_n(max(width - 1, 0.5))}" '
            f'height="{_n(zero - y)}"/>'
            for x, y in dots
        ]
    path = "".join(f"{'L' if n else 'M'}{_n(x)} {_n(y)}" for n, (x, y) in enumerate(dots))
    shapes = []
    if chart.kind == "line":
        shapes.append(
            f'<path class="lw-line" stroke="#3b82f6" d="{path}" fill="none" stroke-width="2" stroke-linejoin="round"/>'
        )
    if chart.kind == "scatter" or len(dots) <= _DOTS_UP_TO:
        # A line of no length with round ends is a dot: one element for all of them.
        points = "".join(f"M{_n(x)} {_n(y)}h0" for x, y in dots)
        opacity = "0.55" if chart.kind == "scatter" else "1"
        shapes.append(
            f'<path class="lw-line" stroke="#3b82f6" d="{points}" stroke-width="6" stroke-linecap="round" '
            f'stroke-opacity="{opacity}"/>'
        )
    return shapes


def _text(  # noqa: PLR0913 - the attributes of one element
    x: float, y: float, text: str, *, anchor: str = "start", size: int = 12, weight: int = 400, muted: bool = False
) -> str:
    opacity = ' fill-opacity="0.7"' if muted else ""
    return (
        f'<text x="{_n(x)}" y="{_n(y)}" text-anchor="{anchor}" font-size="{size}" font-weight="{weight}" '
        f'fill="currentColor"{opacity}>{_escape(text)}</text>'
    )


def _grid(x1: float, y1: float, x2: float, y2: float) -> str:
    return _stroke(x1, y1, x2, y2, "0.14")


def _axis_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return _stroke(x1, y1, x2, y2, "0.6")


def _stroke(x1: float, y1: float, x2: float, y2: float, opacity: str) -> str:
    return (
        f'<line x1="{_n(x1)}" y1="{_n(y1)}" x2="{_n(x2)}" y2="{_n(y2)}" stroke="currentColor" '
        f'stroke-opacity="{opacity}"/>'
    )


def _escape(text: str) -> str:
    return escape(_NOT_XML.sub("\ufffd", text))


def _cut(label: str) -> str:
    line = " ".join(label.split())
    return line if len(line) <= _MAX_LABEL_CHARS else line[: _MAX_LABEL_CHARS - 1] + "…"


def _text_width(text: str) -> float:
    """Estimates pixels at 12 px: the font is the reader's, so a little too much on average."""
    return sum(12.5 if unicodedata.east_asian_width(char) in "WF" else 6.9 for char in text)


def _value(value: float) -> str:
    size = abs(value)
    if size >= 1e15 or 0 < size < 1e-4:  # noqa: PLR2004 - beyond what digits make readable
        return f"{value:.4g}"
    return f"{value:,.0f}" if size >= 1_000 or float(value).is_integer() else f"{value:.4g}"  # noqa: PLR2004


def _n(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
