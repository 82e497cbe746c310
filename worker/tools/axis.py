"""Axes: where the ticks of a scale go and how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
_TIME_TICKS = 7
# Steps of a clock, in seconds, then of a calendar, in months, each with the way it is written.
_CLOCK_STEPS = (
    *((n, "%H:%M:%S") for n in (1, 2, 5, 10, 30)),
    *((n * _MINUTE, "%H:%M") for n in (1, 2, 5, 10, 30)),
    *((n * _HOUR, "%d %b %H:%M") for n in (1, 3, 6, 12)),
    *((n * _DAY, "%d %b %Y") for n in (1, 2, 7, 14)),
)
_MONTH_STEPS = ((1, "%b %Y"), (2, "%b %Y"), (3, "%b %Y"), (6, "%b %Y"))
_MONTH_S = 30.44 * _DAY
_LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH).total_seconds()
_FIRST = (datetime.min.replace(tzinfo=UTC) - _EPOCH).total_seconds()
_UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"))


@dataclass(frozen=True)
class Axis:
    """A scale from `low` to `high`, with its ticks and their labels."""

    low: float
    high: float
    ticks: Sequence[float]
    labels: Sequence[str]

    def scale(self, start: float, end: float) -> Callable[[float], float]:
        """Returns the function from a value to its pixel between `start` and `end`."""
        span = self.high - self.low or 1.0
        return lambda value: start + (value - self.low) / span * (end - start)


def nice_step(span: float, count: int) -> float:
    """Returns the smallest of 1, 2, 5 times a power of ten that covers a span in at most `count` steps."""
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough * (1 - 1e-9))


def number_axis(low: float, high: float, count: int, *, tight: bool = False, whole: bool = False) -> Axis:
    """Returns an axis of numbers with about `count` ticks.

    Args:
        low: the smallest value, finite.
        high: the largest value, finite.
        count: how many ticks at most, about.
        tight: end at the values instead of at the next ticks outside.
        whole: the values are whole numbers, and ticks are too.
    """
    if high - low <= max(abs(low), abs(high), 1e-290) * 1e-12:  # too close for ticks that differ
        margin = abs(low) / 2 or 1.0
        low, high = low - margin, high + margin
    step = nice_step(high - low, count)
    step = max(step, 1.0) if whole else step
    first = math.ceil(low / step - 1e-9) if tight else math.floor(low / step + 1e-9)
    last = math.floor(high / step + 1e-9) if tight else math.ceil(high / step - 1e-9)
    ticks = [n * step for n in range(first, last + 1)]
    ends = (low, high) if tight else (ticks[0], ticks[-1])
    return Axis(*ends, ticks, number_labels(ticks, step))


def number_labels(ticks: Sequence[float], step: float) -> list[str]:
    """Returns the ticks as text, all with as many decimals as the step needs."""
    largest = max(abs(tick) for tick in ticks)
    if largest >= 1e15 or (largest and largest < 1e-4):  # noqa: PLR2004 - beyond what digits make readable
        return [f"{tick:.3g}" if tick else "0" for tick in ticks]
    unit, sign = next(((size, sign) for size, sign in _UNITS if largest >= size), (1.0, ""))
    decimals = min(max(0, -math.floor(math.log10(step / unit) + 1e-9)), 6)
    return [f"{tick / unit:,.{decimals}f}{sign}" if tick else "0" for tick in ticks]


def time_axis(low: float, high: float) -> Axis:
    """Returns an axis of time with at most seven ticks at whole units of clock or calendar.

    Args:
        low: seconds since 1970, UTC.
        high: the same.
    """
    if low == high:
        low, high = low - _DAY, high + _DAY
    if low < _FIRST or high > _LAST - 366 * _DAY:
        return number_axis(low, high, _TIME_TICKS, tight=True)
    for step, style in _CLOCK_STEPS:
        if (high - low) / step <= _TIME_TICKS:
            ticks = [n * float(step) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
            return Axis(low, high, ticks, [_moment(tick).strftime(style) for tick in ticks])
    for months, style in _MONTH_STEPS:
        if (high - low) / (months * _MONTH_S) <= _TIME_TICKS:
            return _calendar(low, high, months, style)
    years = max(1, round(nice_step((high - low) / (12 * _MONTH_S), _TIME_TICKS)))
    return _calendar(low, high, 12 * years, "%Y")


def _calendar(low: float, high: float, months: int, style: str) -> Axis:
    start, end = _moment(low), _moment(high)
    first = (start.year * 12 + start.month - 1) // months * months
    moments = [
        datetime(n // 12, n % 12 + 1, 1, tzinfo=UTC) for n in range(max(first, 12), end.year * 12 + end.month, months)
    ]
    ticks = [(moment, (moment - _EPOCH).total_seconds()) for moment in moments]
    inside = [(moment, tick) for moment, tick in ticks if low <= tick <= high]
    return Axis(low, high, [tick for _, tick in inside], [moment.strftime(style) for moment, _ in inside])


def _moment(seconds: float) -> datetime:
    return _EPOCH + timedelta(seconds=seconds)
