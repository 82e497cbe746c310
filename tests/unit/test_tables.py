"""The user's tables: what is read, what is refused and how, and that nothing else can be reached from SQL."""

from __future__ import annotations

import csv
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.tools.tables import Format, QueryError, Source, TableError, Tables, format_of
from worker.tools.tables.database import MAX_BYTES, MAX_RESULT_ROWS
from worker.tools.tables.profile import profile

SALES = b"region,amount,day\nnorth,1.5,2024-01-01\nsouth,2,2024-01-02\nnorth,,2024-01-03\n"


def opened(content: bytes, kind: Format = "csv", name: str = "", **options: Any) -> Tables:
    return Tables([Source(name or f"sales.{kind}", content, kind)], **options)


def rows(content: bytes, kind: Format = "csv") -> list[list[Any]]:
    return opened(content, kind).read("data").rows


def csv_bytes(lines: Iterable[Iterable[Any]], **dialect: Any) -> bytes:
    text = io.StringIO()
    csv.writer(text, **dialect).writerows(lines)
    return text.getvalue().encode()


def parquet_bytes(sql: str, folder: Path) -> bytes:
    with duckdb.connect() as connection:
        connection.execute(f"COPY ({sql}) TO '{folder}/made.parquet'")
    return (folder / "made.parquet").read_bytes()


# ---------------------------------------------------------------------------------------------------------- reading


def test_csv_types_are_found() -> None:
    table = opened(SALES).tables[0]
    assert (table.name, table.source, table.rows) == ("data", "sales.csv", 3)
    assert [(column.name, column.type) for column in table.columns] == [
        ("region", "VARCHAR"),
        ("amount", "DOUBLE"),
        ("day", "DATE"),
    ]
    assert rows(SALES)[0] == ["north", 1.5, "2024-01-01"]
    assert rows(SALES)[2] == ["north", None, "2024-01-03"]


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_the_first_line_decides_the_delimiter(delimiter: str) -> None:
    content = csv_bytes([["a", 'b"c,;', "d"], ["1,5", "x;y|z", "u\tv"]], delimiter=delimiter)
    table = opened(content)
    assert [column.name for column in table.tables[0].columns] == ["a", 'b"c,;', "d"]
    assert table.read("data").rows == [["1,5", "x;y|z", "u\tv"]]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a,b", []),
        (b"a,b\n", []),
        (b"name,town\nEve,Oslo\n", [["Eve", "Oslo"]]),  # all text: the first line is the header all the same
        (b"\xef\xbb\xbfa,b\n1,2\n", [[1, 2]]),
        (b"a,b\r\n1,2\r\n", [[1, 2]]),
        (b'a,b\n"x\ny","say ""z"""\n', [["x\ny", 'say "z"']]),
        (b"code\n007\n011\n", [["007"], ["011"]]),
        (b"a,b\n1,2\n\n3,4\n", [[1, 2], [3, 4]]),
        (b"when\n2024-01-01 10:00:00+02:00\n", [["2024-01-01T08:00:00+00:00"]]),
    ],
)
def test_csv_values(content: bytes, expected: list[list[Any]]) -> None:
    assert rows(content) == expected


def test_a_column_is_what_all_its_values_are_however_late() -> None:
    numbers = [[str(n)] for n in range(30_000)]
    tables = opened(csv_bytes([["n"], *numbers, ["x"]]))
    assert tables.tables[0].columns[0].type == "VARCHAR"
    assert tables.query("SELECT count(*) FROM data WHERE n = 'x'").rows == [[1]]


def test_json_lines_and_lists_of_objects() -> None:
    objects = [{"a": 1, "b": {"c": [1, 2]}}, {"a": 2, "d": "x"}]
    lines = "\n".join(map(json.dumps, objects)).encode()
    expected = [[1, {"c": [1, 2]}, None], [2, None, "x"]]
    assert rows(lines, "jsonl") == expected
    assert rows(json.dumps(objects).encode(), "jsonl") == expected


def test_parquet_of_every_kind_becomes_json(tmp_path: Path) -> None:
    columns = (
        "SELECT bool, tinyint, bigint, ubigint, float, double, dec_4_1, dec38_10, uuid, varchar, blob, date, time, "
        "timestamp, timestamp_tz, interval, int_array, double_array, varchar_array, struct, map FROM test_all_types()"
    )
    content = parquet_bytes(columns, tmp_path)
    result = opened(content, "parquet").read("data")
    json.dumps(result.rows, allow_nan=False)
    first = dict(zip((column.name for column in result.columns), result.rows[0], strict=True))
    assert first["bigint"] == "-9223372036854775808"  # text: a JSON number would lose digits in most readers
    assert first["dec38_10"] == "-9999999999999999999999999999.9999999999"
    assert first["dec_4_1"] == -999.9
    assert first["date"] == "5877642-06-25 (BC)"  # beyond what Python's dates can hold
    assert result.rows[1][[column.name for column in result.columns].index("double_array")][1:4] == [None, None, None]
    assert result.rows[2] == [None] * len(result.columns)


def test_several_sources_are_tables_named_after_their_files() -> None:
    stores = Source("my stores-2024.csv", b"region,boss\nnorth,Ann\n", "csv")
    tables = Tables([Source("2024 Sales.csv", SALES, "csv"), stores, stores])
    assert [table.name for table in tables.tables] == ["data", "my_stores_2024", "my_stores_2024_2"]
    joined = tables.query("SELECT boss, sum(amount) FROM t_2024_sales JOIN my_stores_2024 USING (region) GROUP BY boss")
    assert joined.rows == [["Ann", 1.5]]


@pytest.mark.parametrize(
    ("name", "content_type", "expected"),
    [
        ("a.CSV", "application/x-www-form-urlencoded", "csv"),
        ("a.tsv", "", "csv"),
        ("a.jsonl", "text/plain", "jsonl"),
        ("a.parquet", "application/octet-stream", "parquet"),
        ("a", "text/csv; charset=utf-8", "csv"),
    ],
)
def test_format_by_name_or_content_type(name: str, content_type: str, expected: str) -> None:
    assert format_of(name, content_type) == expected


def test_unknown_format_says_what_is_known() -> None:
    with pytest.raises(TableError, match=r"'notes.txt' \(text/plain\).*\.csv.*text/csv"):
        format_of("notes.txt", "text/plain")


# Prefixed, so that no value looks like a number, a date or a truth value; NUL ends a line of CSV for its readers.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20).map("v".__add__)


@settings(max_examples=25)
@given(st.lists(st.lists(texts | st.none(), min_size=3, max_size=3), min_size=1, max_size=12))
def test_texts_come_back_from_csv_as_they_were_written(values: list[list[str | None]]) -> None:
    values.append(["end", "end", "end"])  # a table of nothing but gaps has no texts
    assert rows(csv_bytes([["a", "b", "c"], *values])) == values


@settings(max_examples=25)
@given(st.lists(st.integers(-(2**60), 2**60) | st.none(), min_size=1, max_size=12))
def test_integers_come_back_from_csv(values: list[int | None]) -> None:
    got = [value for _, value in rows(csv_bytes([["n", "i"], *enumerate(values)]))]
    assert [value if value is None else int(value) for value in got] == values
    assert all(isinstance(value, str) == (abs(int(value)) > 2**53) for value in got if value is not None)


@settings(max_examples=25)
@given(
    st.lists(
        st.fixed_dictionaries(
            {
                "t": texts,
                "f": st.floats(allow_nan=False, allow_infinity=False),
                "b": st.booleans(),
                "l": st.lists(texts),
            }
        ),
        min_size=1,
        max_size=8,
    )
)
def test_objects_come_back_from_json_lines(objects: list[dict[str, Any]]) -> None:
    content = "\n".join(map(json.dumps, objects)).encode()
    assert rows(content, "jsonl") == [[item[name] for name in objects[0]] for item in objects]


# -------------------------------------------------------------------------------------------------------- malformed


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        ("csv", b"", "sales.csv is empty"),
        ("csv", b" \n\n", "sales.csv is empty"),
        ("csv", b"a,b\n1,2\n3\n", "line 3 has 1 value, the first line 2 columns"),
        ("csv", b"a,b\n1,2,3\n", "line 2 has 3 values, the first line 2 columns"),
        ("csv", b'a,b\n1,"open\n', "line 2: unexpected end of data"),
        ("csv", b'x\ny\rz\nu"', "its lines do not agree"),
        ("csv", b"a,b\n1,2\n\xff\xfe,3\n", "not UTF-8 text: byte 0xff in line 3"),
        ("csv", "a,b\n1,2\n".encode("utf-16"), "not UTF-8 text: byte 0xff in line 1"),
        ("csv", b"a\n" + b"x" * 2_000_001, "line 2 has 2,000,001 bytes; the limit is 2,000,000"),
        ("csv", b"," * 9_999, "10,000 columns; the limit is 256"),
        ("csv", b"x" * 200 + b",b\n1,2\n", "the name of column 1 has 200 characters"),
        ("jsonl", b"", "sales.jsonl is empty"),
        ("jsonl", b'{"a":1}\n{"a":', "line 2 is not JSON"),
        ("jsonl", b'{"a":1}\n\n[1]\n', "line 3 is a list, not an object"),
        ("jsonl", b'[{"a":1}, 5]', "item 2 is a number, not an object"),
        ("jsonl", b"[1", "the list is not JSON"),
        ("jsonl", b"{}\n{}", "no object has a field"),
        ("jsonl", b'{"a":1,"a":2}', 'duplicate key "a"'),
        ("jsonl", b'{"a":' * 9_000, "line 1 is nested too deeply"),
        ("jsonl", b"\n".join(b'{"k%d":1}' % n for n in range(50_000)), "257 columns; the limit is 256"),
        ("jsonl", b'{"a":"\xff"}', "not UTF-8 text"),
        ("parquet", b"", "sales.parquet is empty"),
        ("parquet", b"PAR1", "too small to be a Parquet file"),
        ("parquet", b"this is not Parquet at all", "No magic bytes found"),
        ("parquet", b"PAR1" + bytes(200) + b"PAR1", "Footer length error"),
    ],
)
def test_malformed_tables_are_told_apart(kind: Format, content: bytes, message: str) -> None:
    with pytest.raises(TableError) as told:
        opened(content, kind)
    assert message in str(told.value)
    assert str(told.value).startswith(f"sales.{kind}")
    assert "/dev/fd" not in str(told.value)
    assert told.value.code == "bad_table"


def test_a_small_file_that_unpacks_to_gigabytes_is_refused(tmp_path: Path) -> None:
    content = parquet_bytes("SELECT repeat('x', 1000) || (range % 2) AS v FROM range(200000)", tmp_path)
    assert len(content) < 20_000
    with pytest.raises(TableError, match="needs more memory than it may use, at most 64 MB"):
        opened(content, "parquet", memory_limit_mb=64)


def test_loading_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    tables = opened(SALES)
    tables.query("SELECT * FROM data ORDER BY amount")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------------- queries


def test_query_gives_columns_rows_and_count() -> None:
    result = opened(SALES).query("SELECT region, count(*) AS n FROM sales GROUP BY region ORDER BY n DESC;  -- most")
    assert [(column.name, column.type) for column in result.columns] == [("region", "VARCHAR"), ("n", "BIGINT")]
    assert (result.rows, result.row_count, result.truncated) == ([["north", 2], ["south", 1]], 2, False)


@pytest.mark.parametrize(
    "sql",
    [
        "FROM data",
        "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t WHERE i < 4) FROM t",
        "SELECT 1 UNION SELECT 2 INTERSECT SELECT 2",
        "VALUES (1), (2)",
        "DESCRIBE data",
        "SUMMARIZE data",
        "SHOW TABLES",
        "PIVOT data ON region IN ('north', 'south') USING count(*)",
        "UNPIVOT (SELECT 1 AS a, 2 AS b) ON a, b",
        "SELECT ';' AS \"a;b\" /* ; */ ; -- ;\n ;",
        "SELECT amount AS x, amount AS x FROM data",
        "SELECT list_transform([1, 2], lambda v: v + 1), unnest([1, 2])",
        "SELECT sum(amount) OVER (ORDER BY day) FROM data QUALIFY row_number() OVER () < 3",
        "FROM range(3), generate_series(1, 2)",
    ],
)
def test_reading_statements_of_all_kinds_run(sql: str) -> None:
    json.dumps(opened(SALES).query(sql).rows, allow_nan=False)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT amout FROM data", 'Candidate bindings: "amount", "day"\nSELECT amout FROM data\n       ^^^^^'),
        ("SELEC 1", 'syntax error at or near "SELEC"\nSELEC 1\n^^^^^'),
        ("SELECT *\nFROM data\nWHERE region = = 3", "WHERE region = = 3\n               ^"),
        ("SELECT CAST(region AS INT) FROM data", "Could not convert string 'north' to INT32"),
        ("FROM nowhere", "Table with name nowhere does not exist"),
        ("SELECT $1", "Values were not provided"),
    ],
)
def test_wrong_sql_is_told_in_duckdbs_words_without_its_insides(sql: str, message: str) -> None:
    with pytest.raises(QueryError) as told:
        opened(SALES).query(sql)
    assert message in str(told.value)
    for inside in ("CREATE", "LIMIT", "LINE ", "SET ", "Traceback"):
        assert inside not in str(told.value)
    assert told.value.__suppress_context__


def test_a_table_is_whole_after_a_query_that_failed() -> None:
    tables = opened(SALES)
    for sql in ("SELECT CAST(region AS INT) FROM data", "SELECT nothing", "SELECT list(range) FROM range(200000000)"):
        with pytest.raises(QueryError):
            tables.query(sql)
    assert tables.query("SELECT count(*) FROM data").rows == [[3]]


def test_rows_given_back_are_bounded_by_number_and_by_bytes() -> None:
    tables = opened(b"n\n" + b"\n".join(b"%d" % n for n in range(5_000)))
    many = tables.query("SELECT n FROM data ORDER BY n DESC")
    assert (len(many.rows), many.row_count, many.truncated, many.rows[0]) == (1_000, 5_000, True, [4_999])
    wide = tables.query("SELECT repeat('é', 1500) AS t FROM data")
    assert 0 < len(json.dumps(wide.rows, ensure_ascii=False).encode()) <= MAX_BYTES
    assert wide.truncated
    assert wide.row_count == 5_000


def test_a_result_of_very_many_rows_says_more_than_are_counted() -> None:
    result = opened(SALES).query(f"FROM range({MAX_RESULT_ROWS + 1})")
    assert (result.row_count, result.truncated) == (None, True)
    assert opened(SALES).query(f"FROM range({MAX_RESULT_ROWS})").row_count == MAX_RESULT_ROWS


def test_long_cells_are_cut_and_deep_ones_become_text() -> None:
    tables = opened(SALES)
    cell = tables.query("SELECT repeat('x', 100000)").rows[0][0]
    assert cell == "x" * 2_000 + "…"
    deep = tables.query(f"SELECT {'[' * 15}1{']' * 15}").rows[0][0]
    assert json.loads(deep) == json.loads("[" * 15 + "1" + "]" * 15)


def test_a_result_with_too_many_columns_is_refused() -> None:
    with pytest.raises(QueryError, match="the result has 300 columns; the limit is 256"):
        opened(SALES).query("SELECT " + ", ".join(map(str, range(300))))


# ------------------------------------------------------------------------------------------------------------ walls

# Each works on a connection that is not locked (the control), and is refused by the engine's lock, by itself.
ENGINE_ATTACKS = {
    "read a file": "SELECT * FROM read_text('{secret}')",
    "read a file as a table": "SELECT * FROM '{secret}'",
    "read a blob": "SELECT * FROM read_blob('{secret}')",
    "sniff a file": "SELECT * FROM sniff_csv('{secret}')",
    "list a folder": "SELECT * FROM glob('{folder}/*')",
    "copy out": "COPY data TO '{folder}/out.csv'",
    "copy out inside WITH": "WITH x AS (COPY data TO '{folder}/out.csv') SELECT 1",
    "copy in": "COPY data FROM '{secret}'",
    "export": "EXPORT DATABASE '{folder}/out'",
    "attach": "ATTACH '{folder}/new.db'",
    "raise the memory limit": "SET memory_limit = '64GB'",
    "raise the time limit": "SET max_execution_time = 0",
    "spill to disk": "SET temp_directory = '{folder}'",
    "more threads": "PRAGMA threads = 8",
    "log to a file": "CALL enable_logging(storage = 'file', storage_path = '{folder}/log')",
    "profile to a file": "PRAGMA profiling_output = '{folder}/profile.txt'",
    "persistent secret": "CREATE PERSISTENT SECRET s (TYPE http, EXTRA_HTTP_HEADERS MAP {{'a': 'b'}})",
    "list extensions on disk": "SELECT * FROM duckdb_extensions()",
}
# Each does something on an engine that is locked (the control): only the look at the statement refuses it.
STATEMENT_ATTACKS = {
    "delete": "DELETE FROM data",
    "delete inside WITH": "WITH x AS (DELETE FROM data RETURNING *) FROM x",
    "insert inside WITH": "WITH x AS (INSERT INTO data SELECT * FROM data RETURNING *) FROM x",
    "update inside WITH": "WITH x AS (UPDATE data SET amount = 0 RETURNING *) FROM x",
    "drop": "DROP VIEW sales",
    "create": "CREATE TABLE mine AS FROM data",
    "two statements": "SELECT 1; DELETE FROM data",
    "call": "CALL pragma_version()",
    "pragma": "PRAGMA database_size",
    "transaction": "BEGIN",
    "prepare": "PREPARE p AS DELETE FROM data",
    "explain": "EXPLAIN ANALYZE DELETE FROM data",
    "SQL in a text": "SELECT * FROM query('SELECT 42')",
    "SQL in JSON": "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 42'))",
    "the engine's settings": "SELECT * FROM duckdb_settings()",
    "a setting": "SELECT current_setting('memory_limit')",
    "sleep": "SELECT sleep_ms(1)",
    "sleep, qualified and capitals": "SELECT main.SLEEP_MS(1)",
    "sleep as a method": "SELECT (1).sleep_ms()",
    "sleep far down": "SELECT * FROM data WHERE region IN (SELECT (SELECT sleep_ms(1))::VARCHAR)",
    "a table function far down": "SELECT (SELECT count(*) FROM (SELECT * FROM duckdb_functions()))",
}


@pytest.fixture
def fill(tmp_path: Path) -> Callable[[str], str]:
    (tmp_path / "secret.csv").write_text("region,amount,day\nhidden,1,2024-01-01\n")
    return lambda sql: sql.format(secret=tmp_path / "secret.csv", folder=tmp_path)


def unlocked(folder: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(config={"secret_directory": str(folder / "secrets")})
    return connection.execute("CREATE TABLE data AS SELECT 'n' AS region, 1.5 AS amount, DATE '2024-01-01' AS day")


@pytest.mark.parametrize("attack", ENGINE_ATTACKS)
def test_the_locked_engine_refuses(attack: str, fill: Callable[[str], str], tmp_path: Path) -> None:
    sql = fill(ENGINE_ATTACKS[attack])
    with unlocked(tmp_path) as control:
        control.execute(sql).fetchall()
    for made in (path for path in tmp_path.iterdir() if path.name != "secret.csv"):
        made.rename(made.with_name(f"control-{made.name}"))
    before = {path.name for path in tmp_path.iterdir()}
    tables = opened(SALES)
    with pytest.raises(duckdb.Error):
        tables._connection.execute(sql).fetchall()
    with pytest.raises(QueryError):
        tables.query(sql)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("attack", STATEMENT_ATTACKS)
def test_only_reading_statements_get_to_the_engine(attack: str) -> None:
    sql = STATEMENT_ATTACKS[attack]
    opened(SALES)._connection.execute(sql).fetchall()
    tables = opened(SALES)
    with pytest.raises(QueryError, match=r"not available|can be run|is expected|may only read"):
        tables.query(sql)
    assert tables.query("SELECT count(*), sum(amount) FROM sales").rows == [[3, 3.5]]


def test_no_variable_of_the_program_can_be_read(tmp_path: Path) -> None:
    with unlocked(tmp_path) as control:
        variable = control.sql("SELECT 42")
        assert control.execute("FROM variable").fetchall() == [(42,)]
    connection = opened(SALES)._connection
    variable = connection.sql("SELECT 42")
    assert variable.fetchall() == [(42,)]
    with pytest.raises(duckdb.CatalogException, match="variable does not exist"):
        connection.execute("FROM variable")
    assert connection.execute("SELECT current_setting('python_enable_replacements')").fetchall() == [(False,)]


def test_no_extension_is_loaded_for_a_query(tmp_path: Path) -> None:
    with unlocked(tmp_path) as control:
        assert control.execute("SELECT current_setting('autoload_known_extensions')").fetchall() == [(True,)]
    tables = opened(SALES)
    for sql in ("INSTALL httpfs", "LOAD httpfs", "FROM read_csv('https://127.0.0.1:9/x.csv')"):
        with pytest.raises(duckdb.Error) as refused:
            tables._connection.execute(sql)
        assert "disabled" in str(refused.value)
    for name in ("autoload_known_extensions", "autoinstall_known_extensions", "allow_community_extensions"):
        assert tables._connection.execute(f"SELECT current_setting('{name}')").fetchall() == [(False,)]


def test_no_setting_tells_of_the_machine() -> None:
    with opened(SALES)._connection as connection:
        found = connection.execute("SELECT name, value FROM duckdb_settings() WHERE value LIKE '/%'").fetchall()
    assert found == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM range(1000000000000) a, range(1000) b WHERE a.range + b.range = 7",
        "WITH RECURSIVE t(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM t) SELECT sum(i) FROM t",
    ],
)
def test_a_query_ends_at_its_time_limit(sql: str) -> None:
    tables = opened(SALES, time_limit_s=0.3)
    started = time.monotonic()
    with pytest.raises(QueryError, match=r"^the query took longer than 0.3 s$"):
        tables.query(sql)
    assert time.monotonic() - started < 2
    assert tables.query("SELECT 1").rows == [[1]]


def test_a_query_ends_at_its_memory_limit() -> None:
    tables = opened(SALES, memory_limit_mb=64)
    with pytest.raises(QueryError, match=r"^the query needs more memory than it may use, at most 64 MB$"):
        tables.query("SELECT list(range) FROM range(200000000)")
    assert tables.query("SELECT 1").rows == [[1]]


_ONE_VALUE = """
import resource, sys
from worker.tools.tables import QueryError, Source, Tables
tables = Tables([Source("a.csv", b"a\\n1\\n", "csv")], memory_limit_mb=32)
if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (300 * 2**20, 300 * 2**20))
try:
    print(tables.query("SELECT length(printf('%100000000d', 1))").rows)
except QueryError as error:
    print(error)
print(tables.query("SELECT count(*) FROM data").rows)
"""


@pytest.mark.parametrize(
    ("how", "expected"),
    [("free", "[[100000000]]"), ("limited", "the query needs more memory than it may use, at most 32 MB")],
)
def test_what_escapes_the_engines_limit_meets_that_of_the_process_and_is_told(how: str, expected: str) -> None:
    # The engine does not count one value made by one function: free, this takes 100 MB where 32 are allowed.
    command = [sys.executable, "-c", _ONE_VALUE, how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines() == [expected, "[[1]]"]


def test_importing_leaves_no_thread_and_loads_nothing_heavy() -> None:
    script = (
        "import os, sys, worker.tools.tables; "
        "print(len(os.listdir('/proc/self/task')), [m for m in ('numpy', 'pyarrow', 'pytz') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "1 []"


def test_tables_start_no_thread() -> None:
    before = set(Path("/proc/self/task").iterdir())
    tables = opened(SALES)
    tables.query("SELECT * FROM data ORDER BY 1")
    assert set(Path("/proc/self/task").iterdir()) <= before


def test_time_zones_need_no_further_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytz", None)
    assert opened(SALES).query("SELECT TIMESTAMPTZ '2024-06-01 12:00:00+02'").rows == [["2024-06-01T10:00:00+00:00"]]


# ---------------------------------------------------------------------------------------------------------- profile


def profiles(tables: Tables) -> dict[str, dict[str, Any]]:
    return {entry["column"]: entry for entry in profile(tables, tables.tables[0])}


def test_profile_of_real_data_agrees_with_python() -> None:
    """Python's own table of Unicode characters."""
    characters = [chr(code) for code in range(0x3000) if unicodedata.name(chr(code), "")]
    codes = list(map(ord, characters))
    categories = list(map(unicodedata.category, characters))
    numbers = [unicodedata.numeric(character, None) for character in characters]
    names = list(map(unicodedata.name, characters))
    lines = [["code", "name", "category", "value"], *zip(codes, names, categories, numbers, strict=True)]
    tables = opened(csv_bytes(lines))
    found = profiles(tables)
    assert (found["code"]["min"], found["code"]["max"]) == (min(codes), max(codes))
    assert found["code"]["mean"] == pytest.approx(statistics.fmean(codes))
    assert (found["code"]["nulls"], found["code"]["distinct"]) == (0, len(codes))
    assert "top" not in found["code"]
    counts = sorted(Counter(categories).items(), key=lambda item: (-item[1], item[0]))
    assert found["category"]["distinct"] == len(counts)
    assert found["category"]["top"] == [{"value": value, "count": count} for value, count in counts[:5]]
    values = [number for number in numbers if number is not None]
    assert found["value"]["nulls"] == len(numbers) - len(values)
    assert found["value"]["mean"] == pytest.approx(statistics.fmean(values))
    asked = tables.query("SELECT category, count(*) FROM data GROUP BY 1 ORDER BY 2 DESC, 1")
    assert asked.rows == [list(item) for item in counts]


def test_profile_of_gaps_nested_values_and_long_texts() -> None:
    lines = [{"x": 1.5, "s": {"k": 1}, "t": "y" * 500, "n": None}, {"x": None, "s": {"k": 2}, "t": None, "n": None}]
    found = profiles(opened("\n".join(map(json.dumps, lines)).encode() + b'\n{"x": NaN}', "jsonl"))
    assert (found["x"]["nulls"], found["x"]["distinct"], found["x"]["max"]) == (2, 1, 1.5)
    assert found["s"] == {"column": "s", "type": "STRUCT(k BIGINT)", "nulls": 1, "distinct": 2}
    assert found["t"]["max"] == "y" * 48 + "…"
    assert (found["n"]["nulls"], found["n"]["distinct"], found["n"]["min"]) == (3, 0, None)


def test_profile_of_a_header_alone() -> None:
    assert profiles(opened(b"a,b\n"))["a"] == {
        "column": "a", "type": "VARCHAR", "nulls": 0, "distinct": 0, "min": None, "max": None,
    }  # fmt: skip


def test_the_widest_profile_leaves_room_in_the_output() -> None:
    header = [f"{'é' * 120}{n:08}" for n in range(256)]
    line = ["é" * 500] * 256
    found = profiles(opened(csv_bytes([header, line, line, ["x"] * 256])))
    assert len(json.dumps(found, ensure_ascii=False).encode()) < 700 * 1024
