"""Sentences that are easily answered with another figure than the one asked for: each is answered right, or refused.

The right figures are computed here in plain Python; `None` means that nothing but a refusal is right.
"""

from __future__ import annotations

import csv
import io
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from worker.questions.library import Library, TableHead
from worker.questions.reading import TableLook
from worker.questions.routing import SURE_ENOUGH, Router
from worker.tools.tables import Source, Tables

Row = dict[str, str]
Right = dict[Any, Any] | list[Any] | frozenset[Any] | None  # by group; in order; the first cells of listed rows

PEOPLE = """name,department,salary,hired,city,active
Ann,Sales,50000,2020-01-15,Oslo,true
Bob,Engineering,70000,2021-03-01,Bergen,true
Cid,Engineering,80000,2019-07-20,Oslo,false
Dee,Support,40000,2022-11-11,Bergen,true
Eve,Sales,,2023-05-05,Oslo,false
"""
SALES = """order_id,region,customer,amount,day
1,north,Acme,100.5,2024-01-06
2,south,Birch,40,2024-03-15
3,north,Cedar,,2024-11-30
4,west,Acme,250,2025-02-03
5,south,Dune,60,2025-03-01
6,north,Birch,20,2025-03-02
"""
TABLES = {"people.csv": PEOPLE, "sales.csv": SALES}
PEOPLE_ROWS, SALES_ROWS = (list(csv.DictReader(io.StringIO(text))) for text in TABLES.values())


def _count(test: Callable[[Row], bool], rows: list[Row] = PEOPLE_ROWS) -> list[Any]:
    return [sum(map(test, rows))]


def _names(test: Callable[[Row], bool]) -> frozenset[Any]:
    return frozenset(row["name"] for row in PEOPLE_ROWS if test(row))


def _numbers(column: str, rows: list[Row], test: Callable[[Row], bool] = lambda _: True) -> list[float]:
    return [float(row[column]) for row in rows if row[column] and test(row)]


def _total(test: Callable[[Row], bool]) -> list[Any]:
    return [sum(_numbers("salary", PEOPLE_ROWS, test))]


def _by(
    group: str, column: str, work: Callable[[list[float]], float], rows: list[Row], test: Callable[[Row], bool]
) -> dict[Any, Any]:
    cells: dict[str, list[float]] = defaultdict(list)
    for row in filter(test, rows):
        cells[row[group]] += [float(row[column])] if row[column] else []
    return {key: work(numbers) if numbers else None for key, numbers in cells.items()}


def _salaries(work: Callable[[list[float]], float], test: Callable[[Row], bool] = lambda _: True) -> dict[Any, Any]:
    return _by("department", "salary", work, PEOPLE_ROWS, test)


def _sales(row: Row) -> bool:
    return row["department"] == "Sales"


def _active(row: Row) -> bool:
    return row["active"] == "true"


_SIZES = Counter(row["department"] for row in PEOPLE_ROWS)

PEOPLE_ASKED: dict[str, Right] = {
    # Negations
    "total salary excluding Engineering and Support": _total(_sales),
    "total salary not in Engineering or Support": _total(_sales),
    "total salary without Engineering and Support": _total(_sales),
    "total salary not in Sales or Support": _total(lambda row: row["department"] == "Engineering"),
    "total salary without Sales and Support": _total(lambda row: row["department"] == "Engineering"),
    "total salary except for Sales, Engineering and Support": [None],
    "how many people are not in Oslo?": _count(lambda row: row["city"] != "Oslo"),
    "how many people are not in Sales but in Oslo": _count(lambda row: not _sales(row) and row["city"] == "Oslo"),
    "total salary by department except where city is Oslo": _salaries(sum, lambda row: row["city"] != "Oslo"),
    "total salary by department, Cid excluded": _salaries(sum, lambda row: row["name"] != "Cid"),
    "how many people were not hired in 2021?": _count(lambda row: row["hired"][:4] != "2021"),
    "how many people were never hired in 2021?": _count(lambda row: row["hired"][:4] != "2021"),
    "all people apart from Engineering": _names(lambda row: row["department"] != "Engineering"),
    "all people but Ann": _names(lambda row: row["name"] != "Ann"),
    "people with no salary": _names(lambda row: not row["salary"]),
    "how many people without a salary": _count(lambda row: not row["salary"]),
    "how many people have a salary not over 50000": _count(lambda row: row["salary"] in ("50000", "40000")),
    "total salary by department. Exclude Cid.": _salaries(sum, lambda row: row["name"] != "Cid"),
    "total salary by department and where city is Oslo": _salaries(sum, lambda row: row["city"] == "Oslo"),
    "total salary by department; only in Oslo": _salaries(sum, lambda row: row["city"] == "Oslo"),
    "how many people are in Oslo and are active?": _count(lambda row: row["city"] == "Oslo" and _active(row)),
    "how many people are in Sales or in Bergen": _count(lambda row: _sales(row) or row["city"] == "Bergen"),
    "total salary in Sales and average salary in Support": None,
    # Truth values
    "average salary of active people": [fmean(_numbers("salary", PEOPLE_ROWS, _active))],
    "how many people are active?": _count(_active),
    "how many active people are there?": _count(_active),
    "how many inactive people are there?": _count(lambda row: not _active(row)),
    "how many people in Oslo who are not active": _count(lambda row: row["city"] == "Oslo" and not _active(row)),
    "how many people in Oslo are active": _count(lambda row: row["city"] == "Oslo" and _active(row)),
    "active people by city": dict(Counter(row["city"] for row in PEOPLE_ROWS if _active(row))),
    "how many people are not all active": None,
    "what share of people is active": [60.0],
    "what share of active people is in Oslo": [33.33],
    "most active people": None,
    "people active in 2021": None,
    "how many people were active in 2021": None,
    "percentage of people in Sales by city": {"Oslo": 66.67, "Bergen": 0},
    "average salary of 2 people": None,
    "departments with less than 2 people in Oslo": {"Engineering": 1, "Support": 0},
    "average salary of departments with more than 1 people": None,
    # Dates
    "how many people were hired on 2021-03-01": [1],
    "how many people hired after March 2021": _count(lambda row: row["hired"] > "2021-03-31"),
    "how many people hired before March 2021": _count(lambda row: row["hired"] < "2021-03-01"),
    "how many people hired since March 2021": _count(lambda row: row["hired"] >= "2021-03-01"),
    "how many people hired in March 2021": [1],
    "how many people hired on March 1 2021": [1],
    "how many people hired on 1 March 2021": [1],
    "how many people hired between 2020-01-01 and 2021-12-31": [2],
    "how many people hired from 2020-01-01 to 2021-12-31": [2],
    "how many people hired in Q1 2021": [1],
    "how many people hired in the last 2 years": None,
    "how many people hired before 2021 or after 2022": [3],
    "how many people hired before 2021 and after 2022": [3],
    "how many people hired this year": None,
    "total salary 2021": [70000],
    "when was Ann hired": ["2020-01-15"],
    # Bounds of figures
    "average salary by department with more than 1 person": {"Sales": 50000, "Engineering": 75000},
    "average salary by department with more than 1 people": {"Sales": 50000, "Engineering": 75000},
    "departments with average salary over 45000": {"Sales": 50000, "Engineering": 75000},
    "departments with more than 1 people": {key: size for key, size in _SIZES.items() if size > 1},
    "average salary over 45000 by department": None,
    "how many departments have more than 1 people": [2],
    "how many people have a salary over 60000 or under 45000": [3],
    "how many people have a salary of 2000": [0],
    # Other measures
    "average age by city": None,
    "total bonus by department": None,
    "average salary increase by department": None,
    "salary increase by department": None,
    "total people by city": dict(Counter(row["city"] for row in PEOPLE_ROWS)),
    "average number of people by city": None,
    "average hired by city": None,
    "how many orders are there by city": None,
    "how many different penguins are there": None,
    "salary and age by city": None,
    "average daily salary": None,
    "distribution of salaries over 5 by bonus": None,
    # Narrowing words
    "second highest salary": [70000],
    "2nd highest salary": [70000],
    "third lowest salary": [70000],
    "name starts with A": frozenset({"Ann"}),
    "people whose name starts with A": frozenset({"Ann"}),
    "how many people left?": None,
    "how many people were fired in 2021": None,
    "who was hired last?": frozenset({"Eve"}),
    "who has the highest salary?": frozenset({"Cid"}),
    "which person has the lowest salary": frozenset({"Dee"}),
    "who is the oldest person?": None,
    "the latest salary": None,
    "which is the largest department?": None,
    "top 3 departments": None,
    "total salary of the top 2 departments": [150000],
    "how many of the top 2 people are in Oslo": None,
    "average salary of the largest department": None,
    "average salary by department for new people": None,
    "the first 2 people": None,
    "total salary by department over time by bonus": None,
    "salary by department compared to 2020": None,
    "only people in Oslo": _names(lambda row: row["city"] == "Oslo"),
    "how many people in both Oslo and Bergen": [0],
    "how many people with a salary of about 50000": None,
    "what share of people in Oslo is in Sales": [66.67],
    "total salary of people richer than Ann": None,
    "running total of salary by hired": None,
    "salary difference between Oslo and Bergen": None,
    # And some that shall be answered
    "total salary by department": _salaries(sum),
    "how many people are there by city": dict(Counter(row["city"] for row in PEOPLE_ROWS)),
    "list people in Oslo": _names(lambda row: row["city"] == "Oslo"),
}
SALES_ASKED: dict[str, Right] = {
    "sum of amount for customers other than Acme": [120.0],
    "sum of amount except Acme and Birch": [60.0],
    "sum of amount excluding customers Acme and Birch": [60.0],
    "profit by region": None,
    "total profit by region": None,
    "orders on weekends": None,
    "how many orders on weekends": None,
    "growth of amount from 2024 to 2025": None,
    "amount growth by region": None,
    "total sales by region": None,
    "total orders by region": {"north": 3, "south": 2, "west": 1},
    "orders by region": {"north": 3, "south": 2, "west": 1},
    "how many orders are there per region": {"north": 3, "south": 2, "west": 1},
    "top 1 customers by orders": None,
    "share of orders by region": {"north": 50, "south": 33.33, "west": 16.67},
    "customers with more than 1 orders": {"Acme": 2, "Birch": 2},
    "regions with sales over 50": None,
    "how many orders over 50": [3],
    "total number of sales by region": {"north": 3, "south": 2, "west": 1},
    "average number of sales per region": None,
    "how many sales were returned": None,
    "how many sales by region in March": {"south": 2, "north": 1},
    "how many sales on 2025-03-01": [1],
    "total amount until March 2024": [140.5],
    "total amount after May 2025": [None],
    "total amount in 2024 and average amount in 2025": None,
    "total amount by region and average amount by customer": None,
    "what share of sales in 2025 is in north": [33.33],
    "largest customer": None,
    "amount by region over time": None,
    "total amount by region sorted by number of sales": None,
    "total amount 2024": [140.5],
    "average total amount by region": None,
    "how many north customers": [3],
    "the last sale": None,
    "cumulative amount by month": None,
    "total amount by region without north": {"south": 100, "west": 250},
    "total amount by region": {"north": 120.5, "south": 100, "west": 250},
}


@dataclass(frozen=True)
class Pitfall:
    """A sentence about a table, and what is right."""

    table: str
    text: str
    right: Right


PITFALLS = tuple(
    Pitfall(table, text, right)
    for table, asked in (("people.csv", PEOPLE_ASKED), ("sales.csv", SALES_ASKED))
    for text, right in asked.items()
)


class Clerk:
    """Asks triage about one of these tables, with nothing to read besides."""

    def __init__(self) -> None:
        self._looks: dict[str, TableLook] = {}
        for name, text in TABLES.items():
            tables = Tables([Source(name, text.encode(), "csv")])
            loaded = tables.tables[0]
            self._looks[name] = TableLook(name, loaded.columns, loaded.rows, lambda sql, t=tables: t.query(sql).rows)  # type: ignore[misc]

    def ask(self, pitfall: Pitfall) -> tuple[str, str]:
        """Returns `right`, `refused` or `wrong`, and what triage said."""
        look = self._looks[pitfall.table]
        head = TableHead(pitfall.table, tuple(column.name for column in look.columns))
        routing = Router(Library((head,)), lambda _: look).route(pitfall.text)
        sure = [route for route in routing.routes if route.confidence >= SURE_ENOUGH]
        if not sure:
            return "refused", routing.summary
        said = f"{routing.summary} {sure[0].input.get('sql')}"
        if pitfall.right is None or len(sure) > 1 or "sql" not in sure[0].input:
            return "wrong", said
        return ("right" if _same(look.query(sure[0].input["sql"]), pitfall.right) else "wrong"), said


def _same(rows: list[list[Any]], right: Right) -> bool:
    if isinstance(right, frozenset):
        return {row[0] for row in rows} == right and len(rows) == len(right)
    if isinstance(right, dict):
        return len(rows) == len(right) and {row[0]: row[-1] for row in rows} == right
    return [row[-1] for row in rows] == right
