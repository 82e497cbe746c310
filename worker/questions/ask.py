"""`Ask`: what a request wants from a table, as a value; and its SQL, its chart and its words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from worker.tools.tables import quote

How = Literal["count", "distinct", "sum", "avg", "median", "min", "max", "share", "corr"]
Unit = Literal["year", "quarter", "month", "week", "day", "weekday"]
Op = Literal["in", "not in", ">", ">=", "<", "<=", "=", "between"]

_NAMES = {"sum": "total", "avg": "average", "median": "median", "min": "lowest", "max": "highest"}
_WORDS = {">": "above", ">=": "at least", "<": "below", "<=": "at most", "=": "equal to"}
_UNITS = {
    "year": "year({0})", "quarter": "date_trunc('quarter', {0})::DATE", "month": "date_trunc('month', {0})::DATE",
    "week": "date_trunc('week', {0})::DATE", "day": "({0})::DATE", "weekday": "dayname({0})",
}  # fmt: skip
MAX_LISTED = 100


@dataclass(frozen=True)
class Measure:
    """A figure: `count` of rows has no column, `corr` has two; `noun` is what the user calls a row."""

    how: How
    column: str | None = None
    other: str | None = None
    noun: str = "rows"
    only: tuple[Filter, ...] = ()  # of a share: the part

    @property
    def name(self) -> str:
        """Of the result's column."""
        if self.how == "share":
            return "percent"
        if self.how == "corr":
            return "correlation"
        if self.how == "distinct":
            return f"different {self.column}"
        return f"{_NAMES[self.how]} {self.column}" if self.how in _NAMES else self.noun

    def sql(self, *, grouped: bool) -> str:
        """Returns the expression."""
        column = quote(self.column) if self.column else ""
        if self.how == "share":
            part = f"sum({column})" if column else "count(*)"
            if self.only:
                only = " AND ".join(item.sql() for item in self.only)
                return f"round(100.0 * {part} FILTER (WHERE {only}) / {part}, 2)"
            return f"round(100.0 * {part} / sum({part}) OVER (), 2)" if grouped else "100.0"
        if self.how == "corr":
            return f"round(corr({column}, {quote(self.other or '')}), 4)"
        plain = {"count": "count(*)", "distinct": f"count(DISTINCT {column})"}
        return plain.get(self.how, f"{self.how}({column})")


@dataclass(frozen=True)
class Group:
    """One result row for each value of a column, or of a unit of time in it."""

    column: str
    unit: Unit | None = None

    @property
    def name(self) -> str:
        """Of the result's column."""
        return self.unit or self.column

    def sql(self) -> str:
        """Returns the expression."""
        return _UNITS[self.unit].format(quote(self.column)) if self.unit else quote(self.column)


@dataclass(frozen=True)
class Filter:
    """A condition on a column (or on a unit of time in it, `unit`)."""

    column: str
    op: Op
    values: tuple[str | int | float, ...]
    unit: Unit | None = None
    date: bool = False

    def sql(self) -> str:
        """Returns the condition."""
        column = quote(self.column)
        if self.unit:
            column = f"{self.unit}({column})"
        elif self.date:
            column = f"{column}::DATE"  # a time of day is on that day, too
        values = [literal(value, date=self.date) for value in self.values]
        if self.op == "between":
            return f"{column} BETWEEN {values[0]} AND {values[1]}"
        if self.op == "not in":
            return f"({column} NOT IN ({', '.join(values)}) OR {column} IS NULL)"
        if self.op == "in":
            return f"{column} = {values[0]}" if len(values) == 1 else f"{column} IN ({', '.join(values)})"
        return f"{column} {self.op} {values[0]}"

    @property
    def words(self) -> str:
        """For a person."""
        name = f"{self.unit} of {self.column}" if self.unit else self.column
        if self.op == "between":
            return f"{name} from {self.values[0]} to {self.values[1]}"
        if self.op in ("in", "not in"):
            return f"{name} {'not ' if self.op == 'not in' else ''}{' or '.join(map(str, self.values))}"
        return f"{name} {_WORDS[self.op]} {self.values[0]}"


@dataclass(frozen=True)
class Ask:
    """What a request wants from a table.

    Attributes:
        measures: figures; none: the rows themselves.
        groups: one row of figures for each.
        filters: only rows where all of them hold.
        columns: of the rows; none: all.
        order: `measure`, `group`, or the name of a column.
        having: a bound for the figure `bounded`.
    """

    measures: tuple[Measure, ...] = ()
    groups: tuple[Group, ...] = ()
    filters: tuple[Filter, ...] = ()
    columns: tuple[str, ...] = ()
    order: str | None = None
    descending: bool = True
    limit: int | None = None
    having: tuple[Op, int | float] | None = None
    bounded: Measure | None = None

    def sql(self) -> str:
        """Returns the statement; the table is `data`."""
        selected = [f"{group.sql()} AS {quote(group.name)}" if group.unit else group.sql() for group in self.groups]
        selected += [f"{item.sql(grouped=bool(self.groups))} AS {quote(item.name)}" for item in self.measures]
        if not self.measures:
            selected = [quote(column) for column in self.columns] or ["*"]
        parts = [f"SELECT {', '.join(selected)}", "FROM data"]
        if self.filters:
            parts.append("WHERE " + " AND ".join(item.sql() for item in self.filters))
        if self.groups:
            parts.append("GROUP BY ALL")
        if self.having and self.bounded:
            parts.append(f"HAVING {self.bounded.sql(grouped=True)} {self.having[0]} {literal(self.having[1])}")
        if order := self._order():
            parts.append("ORDER BY " + ", ".join(order))
        limit = self.limit or (None if self.measures else MAX_LISTED)
        if limit:
            parts.append(f"LIMIT {limit}")
        return " ".join(parts)

    def _order(self) -> list[str]:
        down = " DESC NULLS LAST" if self.descending else " NULLS LAST"
        groups = [quote(group.name) for group in self.groups]
        weekday = next((group for group in self.groups if group.unit == "weekday"), None)
        if self.order == "group":
            if weekday:
                return [f"min(isodow({quote(weekday.column)}))", *groups]
            return [groups[0] + ("" if not self.descending else " DESC"), *groups[1:]]
        if self.order == "measure":
            return [quote(self.measures[0].name) + down, *groups]
        return (
            [quote(self.order) + down, *(group for group in groups if group != quote(self.order))] if self.order else []
        )

    @property
    def words(self) -> str:
        """What is worked out, for a person: the title of the table."""
        what = ", ".join(item.name for item in self.measures) or ", ".join(self.columns) or "rows"
        if any(item.how == "share" for item in self.measures):
            part = next((f for item in self.measures for f in item.only), None)
            what = f"percent of rows with {part.words}" if part else what
        parts = [what]
        if self.groups:
            parts.append("by " + " and ".join(group.name for group in self.groups))
        if self.filters:
            parts.append("with " + ", ".join(item.words for item in self.filters))
        if self.having and self.bounded:
            of = "" if self.measures[:1] == (self.bounded,) else f"with {self.bounded.name} "
            parts.append(f"{of}{_WORDS[self.having[0]]} {self.having[1]}")
        if self.limit:
            end = "largest" if self.descending else "smallest"
            parts.append(f"(the {end}{f' {self.limit}' if self.limit > 1 else ''})")
        return " ".join(parts)

    def chart(self) -> dict[str, Any] | None:
        """Returns the chart that suits the result, None for none."""
        if not self.groups or not self.measures or len(self.groups) > 1:
            return None
        group = self.groups[0]
        line = group.unit is not None and group.unit != "weekday"
        title = self.words[:1].upper() + self.words[1:]
        made = {"kind": "line" if line else "bar", "x": group.name, "y": self.measures[0].name}
        return made | ({"title": title} if len(title) <= 100 else {})  # noqa: PLR2004 - the limit is 120

    def followed_by(self, more: Ask) -> Ask:
        """Returns this ask with what a later one changes: `and by month?`, `the same for Norway`."""
        changed = {item.column for item in more.filters}
        kept = tuple(item for item in self.filters if item.column not in changed)
        groups = more.groups or self.groups
        in_time = bool(more.groups) and more.groups[0].unit is not None
        return replace(
            self,
            measures=more.measures or self.measures or (Measure("count"),) * bool(more.groups),
            groups=groups,
            filters=kept + more.filters,
            columns=() if groups else more.columns or self.columns,
            order=("group" if in_time else "measure") if more.groups else more.order or self.order,
            descending=not in_time if more.groups else more.descending if more.order else self.descending,
            limit=more.limit or (None if more.groups else self.limit),
            having=more.having or (None if more.groups else self.having),
            bounded=more.bounded or (None if more.groups else self.bounded),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns it for the memory of a thread."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Ask:
        """Returns what `to_json` gave."""
        return cls(
            measures=tuple(map(_measure, value["measures"])),
            groups=tuple(Group(**item) for item in value["groups"]),
            filters=tuple(map(_filter, value["filters"])),
            columns=tuple(value["columns"]),
            order=value["order"],
            descending=value["descending"],
            limit=value["limit"],
            having=tuple(value["having"]) if value["having"] else None,
            bounded=_measure(value["bounded"]) if value.get("bounded") else None,
        )


def _measure(value: dict[str, Any]) -> Measure:
    return Measure(**{**value, "only": tuple(map(_filter, value["only"]))})


def _filter(value: dict[str, Any]) -> Filter:
    return Filter(**{**value, "values": tuple(value["values"])})


def literal(value: str | float, *, date: bool = False) -> str:
    """Returns a value as an SQL literal."""
    if isinstance(value, str):
        return ("DATE " if date else "") + "'" + value.replace("'", "''") + "'"
    return repr(value)
