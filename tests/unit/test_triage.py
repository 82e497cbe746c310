"""Requests read by rules: over a small table where each answer is plain, and over real ones where it is computed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.evaluation.pitfalls import PEOPLE, PITFALLS, Clerk, Pitfall
from tests.evaluation.requests import Collection, collections, requests
from tests.evaluation.triage import Desk, measure
from worker.agents.triage import Triage
from worker.questions.ask import Ask
from worker.questions.grammar import Parsed, parse
from worker.questions.library import Library, Prose, TableHead, header
from worker.questions.reading import Reading, TableLook
from worker.questions.routing import ASSUMED, MAX_CLAUSES, SURE_ENOUGH, Router, Routing
from worker.questions.words import clauses, name_words, root, same, singular, tokens
from worker.registry import check_agent_class
from worker.tools.tables import QueryError, Source, TableError, Tables

DOCS = Path(__file__).parents[2] / "docs" / "agents.md"
SALES = """order_id,region,customer,amount,day
1,north,Ann,10.5,2024-01-03
2,south,Bo,4,2024-01-20
3,north,O'Brien,,2024-02-01
4,South Pole,Ann,100,2025-02-11
5,south,Cy,6,2025-03-01
6,north,Ann,2,2025-03-02
"""
HANDBOOK = """Refunds are approved by the head of sales within ten days.

Travel above 2,000 euros needs a second signature."""


def look(name: str = "sales.csv", content: str = SALES) -> TableLook:
    tables = Tables([Source(name, content.encode(), "csv")])
    table = tables.tables[0]
    return TableLook(name, table.columns, table.rows, lambda sql: tables.query(sql).rows)


def parsed(clause: str) -> Parsed:
    return parse(Reading(clause, look()))


def answer(clause: str) -> list[list[Any]]:
    found = parsed(clause)
    assert found.ask is not None, found
    return look().query(found.ask.sql())


@pytest.mark.parametrize(
    ("clause", "rows"),
    [
        ("How many sales are there?", [[6]]),
        ("number of sales per region", [["north", 3], ["south", 2], ["South Pole", 1]]),
        ("total amount by region", [["South Pole", 100], ["north", 12.5], ["south", 10]]),
        ("sum of the amount", [[122.5]]),
        ("What is the average amount in north?", [[6.25]]),
        ("median amount for Ann", [[10.5]]),
        ("average and maximum amount by region",
         [["South Pole", 100, 100], ["north", 6.25, 10.5], ["south", 5, 6]]),
        ("the largest amount", [[100]]),
        ("smallest amount by region", [["north", 2], ["south", 4], ["South Pole", 100]]),
        ("how many different customers are there?", [[4]]),
        ("which customer has the most sales?", [["Ann", 3]]),
        ("Which customer has the highest total amount?", [["Ann", 112.5]]),
        ("top 2 customers by amount", [["Ann", 112.5], ["Cy", 6]]),
        ("the 2 customers with the fewest sales", [["Bo", 1], ["Cy", 1]]),
        ("total amount per year", [[2024, 14.5], [2025, 108]]),
        ("amount by quarter", [["2024-01-01", 14.5], ["2025-01-01", 108]]),
        ("monthly number of sales in 2025", [["2025-02-01", 1], ["2025-03-01", 2]]),
        ("yearly number of sales by day", [[2024, 3], [2025, 3]]),
        ("how many sales since 2025", [[3]]),
        ("how many sales before 2025", [[3]]),
        ("how many sales after 2025-02-11", [[2]]),
        ("number of sales in march", [[2]]),
        ("how many sales between 2024 and 2024", [[3]]),
        ("how many sales in 2024 and 2025", [[6]]),
        ("how many sales with an amount over 5", [[3]]),
        ("how many sales have an amount of at most 4", [[2]]),
        ("how many sales have an amount between 4 and 10.5", [[3]]),
        ("how many sales with amount 4 or more", [[4]]),
        ("regions with more than 1 sales", [["north", 3], ["south", 2]]),
        ("what share of sales is in north", [[50]]),
        ("share of amount by region", [["South Pole", 81.63], ["north", 10.2], ["south", 8.16]]),
        ("number of sales not in south", [[4]]),
        ("number of sales in the South Pole", [[1]]),
        ("number of sales of O'Brien", [[1]]),
        ('number of sales of "Bo"', [[1]]),
        ("What is the region of Bo?", [["Bo", "south"]]),
        ("list the customers of region south", [["Bo", "south"], ["Cy", "south"]]),
        ("distribution of sales by customer", [["Ann", 3], ["Bo", 1], ["Cy", 1], ["O'Brien", 1]]),
        ("number of sales by region and customer sorted by region",
         [["South Pole", "Ann", 1], ["north", "Ann", 2], ["north", "O'Brien", 1], ["south", "Bo", 1],
          ["south", "Cy", 1]]),
        ("correlation of amount and order id", [[0.0555]]),
    ],
)  # fmt: skip
def test_what_a_clause_asks_of_a_table(clause: str, rows: list[list[Any]]) -> None:
    assert answer(clause) == rows


@pytest.mark.parametrize(
    ("clause", "lacking"),
    [
        ("total amount by department", "department"),
        ("total amount in Norway", "Norway"),
        ("average salary by region", "average"),
        ("forecast the amount by region", "forecast"),
        ("number of sales for Zoe", "Zoe"),
        ("total amount by region over 5", "I could not tell what is to be > 5"),
        ("total amount of bicycles", "bicycles"),
        ("How many expired sales are there per region?", "expired"),
        ("How many penguins are there per region?", "the rows of sales.csv are sales, not penguins"),
        ("Which region has the most beautiful view?", "beautiful"),
        ("total amount of customers richer than 5 by region", "5"),
    ],
)
def test_a_part_that_the_table_lacks_is_not_passed_over(clause: str, lacking: str) -> None:
    found = parsed(clause)
    assert found.ask is None
    assert any(lacking in note for note in found.notes)


@pytest.fixture(scope="module")
def clerk() -> Clerk:
    return Clerk()


@pytest.mark.parametrize("pitfall", PITFALLS, ids=lambda pitfall: pitfall.text)
def test_rather_no_answer_than_a_wrong_one(clerk: Clerk, pitfall: Pitfall) -> None:
    outcome, said = clerk.ask(pitfall)
    assert outcome != "wrong", said


@pytest.mark.parametrize(
    ("clause", "rows"),
    [
        ("total salary excluding Engineering and Support", [[50000]]),
        ("average salary of active people", [[pytest.approx(160000 / 3)]]),
        ("how many people in Oslo who are not active", [[2]]),
        ("active people by city", [["Bergen", 2], ["Oslo", 1]]),
        ("how many people were hired on 2021-03-01", [[1]]),
        ("how many people hired after March 2021", [[2]]),
        ("how many people hired from 2020-01-01 to 2021-12-31", [[2]]),
        ("departments with average salary over 45000", [["Engineering", 75000], ["Sales", 50000]]),
        ("average salary by department with more than 1 person", [["Engineering", 75000], ["Sales", 50000]]),
        ("what share of people is active", [[60]]),
        ("who has the highest salary?", [["Cid", "Engineering", 80000, "2019-07-20", "Oslo", False]]),
    ],
)
def test_what_is_answered_of_people(clause: str, rows: list[list[Any]]) -> None:
    people = look("people.csv", PEOPLE)
    found = parse(Reading(clause, people))
    assert found.ask is not None, found
    assert people.query(found.ask.sql()) == rows
    assert Ask.from_json(found.ask.to_json()) == found.ask


@pytest.mark.parametrize(
    ("clause", "word"),
    [
        ("how many people were not hired in 2021?", "'not'"),
        ("total salary by department, Cid excluded", "'excluded'"),
        ("average age by city", "'age'"),
        ("second highest salary", "'second'"),
        ("average salary and city", "'city'"),
        ("how many people in Oslo 7", "'7'"),
        ("how many people in Sales on 2021-03-01 2022-01-01", "'2022-01-01'"),
        ("how many employees are there by city", "employees"),
    ],
)
def test_a_refusal_names_the_word(clause: str, word: str) -> None:
    found = parse(Reading(clause, look("people.csv", PEOPLE)))
    assert found.ask is None
    assert any(word in note for note in found.notes)


def test_a_value_of_two_columns_has_to_be_told_apart() -> None:
    flights = look("flights.csv", "origin,target,seats\nOslo,Bergen,3\nBergen,Oslo,4\noslo,Rome,5\n")
    assert parse(Reading("how many flights in Bergen", flights)).ask is None
    named = parse(Reading("how many flights with target Bergen", flights))
    assert named.ask is not None
    assert flights.query(named.ask.sql()) == [[1]]


def test_times_of_day_are_on_their_day() -> None:
    calls = look("calls.csv", "caller,at_time\nAnn,2024-01-03 10:00:00\nBo,2024-01-04 23:00:00\n")
    for clause, count in (("on 2024-01-03", 1), ("after 2024-01-03", 1), ("until 2024-01-04", 2)):
        found = parse(Reading(f"how many calls {clause}", calls))
        assert found.ask is not None, found
        assert calls.query(found.ask.sql()) == [[count]]


def test_a_word_for_the_rows_that_the_table_does_not_say_makes_it_less_sure() -> None:
    table = look("export.csv")
    library = Library((TableHead("export.csv", ("region", "amount")),))
    routing = Router(library, lambda _: table).route("how many bookings are there per region")
    assert routing.routes[0].confidence == ASSUMED
    assert "I took 'bookings' for the rows of export.csv" in routing.routes[0].reason
    assert sure(Router(library, lambda _: table).route("profit by region")) == []


def test_a_part_that_takes_something_away_belongs_to_the_question_before_it() -> None:
    assert sure(route("Total amount by region. Exclude Ann.")) == []
    assert sorted(sure(route("Total amount by region. Who approves refunds, not travel?"))) == ["data", "research"]


@pytest.mark.parametrize("request_text", ["", "   ", "\n\t"])
def test_a_blank_request_is_refused(request_text: str) -> None:
    with pytest.raises(ValidationError, match="at least 1 character"):
        Triage.Input.model_validate({"request": request_text})


@pytest.mark.parametrize("clause", ["number of trips per year", "how many trips since 2024", "the oldest trip"])
def test_of_several_dates_one_has_to_be_named(clause: str) -> None:
    trips = look("trips.csv", "start,finish\n2023-01-01,2024-01-01\n2024-02-01,2024-02-02\n")
    assert parse(Reading(clause, trips)).notes == ("say which date is meant: start or finish",)
    named = parse(Reading(clause.replace("per year", "per year of finish").replace("how many trips", "finish"), trips))
    assert "oldest" in clause or named.ask is not None


def test_the_docs_show_what_comes_of_requests() -> None:
    rows = re.findall(r"^\| (.+?) \| `(SELECT .+)` \|$", DOCS.read_text(), re.MULTILINE)
    assert len(rows) == 10
    for request, sql in rows:
        found = parsed(request)
        assert found.ask is not None, found
        assert found.ask.sql() == sql


def test_names_and_values_are_quoted_in_the_sql() -> None:
    hostile = look("odd.csv", 'we"ird,it\'s\n"a\'; DROP TABLE data; --",1\nb,2\n'.replace('we"ird', '"we""ird"'))
    found = parse(Reading("how many different weird values", hostile))
    assert Ask(columns=('we"ird',), order="it's").sql() == (
        'SELECT "we""ird" FROM data ORDER BY "it\'s" DESC NULLS LAST LIMIT 100'
    )
    assert found.ask is None or hostile.query(found.ask.sql())
    value = parse(Reading('number of odd with "a\'; DROP TABLE data; --"', hostile))
    assert value.ask is not None
    assert hostile.query(value.ask.sql()) == [[1]]


@given(st.text(max_size=200))
def test_no_text_breaks_the_reading_or_makes_wrong_sql(text: str) -> None:
    table = WHOLE
    found = parse(Reading(f"{text} total amount by region {text}", table))
    if found.ask:
        table.query(found.ask.sql())
    assert 0 <= found.coverage <= 1


WHOLE = look()
WORDS = (
    "how many number of total average sales region customer amount by per month top 3 most in north 2024 over 5 and"
    " share not the largest different between since list which Ann year South Pole order id sorted"
)


@given(st.lists(st.sampled_from(WORDS.split()), min_size=1, max_size=12))
def test_every_ask_is_sql_that_runs(words: list[str]) -> None:
    route(" ".join(words))
    found = parse(Reading(" ".join(words), WHOLE))
    if found.ask:
        WHOLE.query(found.ask.sql())
        assert Ask.from_json(found.ask.to_json()) == found.ask
        assert found.ask.words


def route(request: str, memory: Any = None, *, tables: bool = True, prose: bool = True) -> Routing:
    heads = (TableHead("sales.csv", tuple(SALES.splitlines()[0].split(","))),) if tables else ()
    library = Library(heads, (Prose("handbook.md", HANDBOOK),) if prose else ())
    return Router(library, lambda _: WHOLE, memory).route(request)


def sure(routing: Routing) -> list[str]:
    return [item.agent for item in routing.routes if item.confidence >= SURE_ENOUGH]


def test_a_request_goes_to_whom_it_is_for_with_reasons() -> None:
    routing = route("What is the total amount by region, and who approves refunds?")
    assert sorted(sure(routing)) == ["data", "research"]
    data = next(item for item in routing.routes if item.agent == "data")
    assert data.input["document"] == "sales.csv"
    assert data.input["chart"] == {
        "kind": "bar", "x": "region", "y": "total amount", "title": "Total amount by region",
    }  # fmt: skip
    assert data.reason == "total amount by region in sales.csv"
    research = next(item for item in routing.routes if item.agent == "research")
    assert research.input == {"question": "who approves refunds?"}
    assert research.reason == "approves and refunds stand together in handbook.md"
    assert all(0 < item.confidence <= 1 for item in routing.routes)
    assert [item.confidence for item in routing.routes] == sorted((r.confidence for r in routing.routes), reverse=True)


def test_nothing_to_answer_with_is_told_with_the_words() -> None:
    routing = route("How many penguins live in Norway?")
    assert sure(routing) == []
    assert "I found nothing" in routing.summary
    assert set(routing.unplaced) == {"penguins", "live", "norway"}
    assert sure(route("who approves refunds?", prose=False)) == []
    assert sure(route("total amount by region", tables=False)) == []


def test_a_table_that_is_only_named_is_profiled() -> None:
    routing = route("Please describe sales.csv")
    assert [(item.agent, item.input) for item in routing.routes] == [("data", {"document": "sales.csv"})]


def test_a_half_fitting_question_is_a_guess_that_says_what_is_lacking() -> None:
    routing = route("total amount by region in Norway")
    assert sure(routing) == []
    assert "has no column or value for 'Norway'" in routing.summary
    assert routing.unplaced == ("norway",)


def test_a_thread_goes_on_from_the_last_table() -> None:
    memory = route("total amount by region").memory
    monthly = route("and by month?", memory)
    assert monthly.routes[0].input["sql"].startswith("SELECT date_trunc('month', \"day\")::DATE")
    north = route("the same for north", monthly.memory)
    assert "WHERE \"region\" = 'north'" in north.routes[0].input["sql"]
    assert 'sum("amount")' in north.routes[0].input["sql"]
    later = route("the same for 2025", north.memory)
    assert 'WHERE "region" = \'north\' AND year("day") = 2025' in later.routes[0].input["sql"]
    average = route("what about the average amount?", north.memory)
    assert 'avg("amount")' in average.routes[0].input["sql"]
    assert sure(route("and by month?")) == []  # nothing to go on from


def test_a_table_that_cannot_be_read_leaves_the_rest() -> None:
    def broken(name: str) -> TableLook:
        raise TableError(f"{name} is empty")

    told: list[str] = []
    library = Library((TableHead("sales.csv", ("region", "amount")),), (Prose("handbook.md", HANDBOOK),))
    routing = Router(library, broken, None, told.append).route("total amount by region, and who approves refunds?")
    assert sure(routing) == ["research"]
    assert told == ["looking into sales.csv", "sales.csv cannot be read as a table: sales.csv is empty"]


def test_a_table_that_cannot_answer_leaves_the_rest() -> None:
    def query(sql: str) -> list[list[Any]]:
        if "sum(" in sql:
            raise QueryError("the query took longer than 20 s")
        return WHOLE.query(sql)

    told: list[str] = []
    library = Library((TableHead("sales.csv", ("region", "amount")),), (Prose("handbook.md", HANDBOOK),))
    router = Router(library, lambda _: replace(WHOLE, query=query), None, told.append)
    assert sure(router.route("total amount by region, and who approves refunds?")) == ["research"]
    assert told[-1] == "sales.csv cannot be asked this: the query took longer than 20 s"


def test_a_request_of_very_many_parts_is_bounded() -> None:
    routing = route("Who approves refunds? " * MAX_CLAUSES + "What about travel?")
    assert routing.unplaced == ("“What about travel?”",)
    assert sum(item.agent == "data" for item in route("total amount by region. " * MAX_CLAUSES).routes) == 2


def test_very_many_words_are_looked_up_in_portions() -> None:
    words = " ".join(f"word{number}" for number in range(1500))
    assert parsed(f"{words} number of sales in north").coverage < 0.1
    assert {item.value for item in Reading(f"{words} sales in north", WHOLE).values} == {"north"}


@pytest.mark.parametrize(
    ("name", "kind", "head", "columns"),
    [
        ("a.csv", "", b'\xef\xbb\xbf"b, c";d\n1;2', ("b, c", "d")),
        ("a.tsv", "", b"b\tc\n", ("b", "c")),
        ("a.jsonl", "", b'{"b": 1, "c": 2}\n', ("b", "c")),
        ("a.json", "", b'[{"b": 1},\n', ("b",)),
        ("a.json", "", b"[\n{", ()),
        ("a.parquet", "", b"PAR1", ()),
        ("a", "text/csv", b"b,c", ("b", "c")),
        ("a.md", "text/markdown", b"# b", None),
    ],
)
def test_columns_show_in_the_first_line(name: str, kind: str, head: bytes, columns: tuple[str, ...] | None) -> None:
    assert header(name, kind, head) == columns


def test_words() -> None:
    assert [token.text for token in tokens('How many "New York" (offices), in .txt U+0041?')] == [
        "how", "many", "new york", "offices", "in", ".txt", "u+0041",
    ]  # fmt: skip
    assert clauses("Total by region, and why? Then list it. What is x and y") == [
        "Total by region", "why", "Then list it", "What is x and y",
    ]  # fmt: skip
    assert [singular(word) for word in ("countries", "boxes", "sales", "status", "class")] == [
        "country", "box", "sale", "status", "class",
    ]  # fmt: skip
    assert same("statuses", "status")
    assert name_words("validFrom") == name_words("valid-from") == ["valid", "from"]
    assert len({root(word) for word in ("delete", "deletes", "deleted", "deleting")}) == 1


def test_the_agent_is_sound() -> None:
    check_agent_class(Triage)
    assert set(Triage.Input.model_json_schema()["properties"]) == {"request", "documents"}


@pytest.fixture(scope="module")
def every() -> tuple[Collection, ...]:
    return collections()


@pytest.mark.parametrize("number", range(3))
def test_requests_made_from_real_tables_and_documents_are_routed_right(
    every: tuple[Collection, ...], number: int
) -> None:
    """Floors; `python -m tests.evaluation.triage` reports a seed that the rules were not made with."""
    collection = every[number]
    asked = requests(collection, [other for other in every if other is not collection], seed=7, each=2)
    assert len(asked) >= 30
    tallies = measure(Desk(collection), asked)
    failures = [text for tally in tallies.values() for text in tally.failures]
    assert sum(tally.figures for tally in tallies.values()) / len(asked) >= 0.92, failures
    assert all(tallies[kind].figures / tallies[kind].asked >= 0.75 for kind in tallies), failures
