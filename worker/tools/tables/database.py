"""The user's tables, in an in-memory DuckDB of their own that is locked before any SQL of the user's runs.

Three walls stand between a query and everything but the tables: `statement` lets only a reading statement through; the
locked engine opens no file, no network and no extension; and the sandbox around the process bounds what DuckDB itself
does not: one scalar function may allocate or compute past the limits below (`repeat('x', 1e9)`).
"""

# ruff: noqa: S608 - the names in this SQL are quoted, the rest is our own
from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from shared.errors import LanewiseError
from worker.tools.tables.errors import QueryError, TableError, duckdb_errors
from worker.tools.tables.loading import MAX_COLUMNS, MAX_NAME_CHARS, Source, check_width, explain, reader
from worker.tools.tables.statement import reading_statement
from worker.tools.tables.values import MAX_CELL_CHARS, Column, quote, select_json, to_values

MEMORY_LIMIT_MB = 512
TIME_LIMIT_S = 20.0
MAX_RESULT_ROWS = 1_000_000  # what the result of a query may hold; a chart is drawn from all of it
MAX_ROWS = 1_000  # what is given back of it
MAX_BYTES = 256 * 1024

_CONFIG: dict[str, Any] = {
    "threads": 1,
    "async_threads": 0,
    "temp_directory": "",
    "max_temp_directory_size": "0B",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,
    "secret_directory": "none",
}
_LOCK = (
    "SET enable_external_access = false",
    "SET disabled_filesystems = 'LocalFileSystem'",
    "SET lock_configuration = true",
)


@dataclass(frozen=True)
class Table:
    """A loaded table: `name` in SQL, `source` as the user calls it."""

    name: str
    source: str
    rows: int
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Result:
    """Rows as JSON values; `row_count` is None above `MAX_RESULT_ROWS`, `truncated` if `rows` is not all of them."""

    columns: tuple[Column, ...]
    rows: list[list[Any]]
    row_count: int | None
    truncated: bool


class Tables:
    """Loads the sources, then locks the engine. The first is the table `data`; each is also named after its file.

    Args:
        sources: what to load, the main table first.
        time_limit_s: seconds for loading each table and for each query.
        memory_limit_mb: for all tables and what a query needs.

    Raises:
        TableError: a source that is no table, or larger than the limits.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        time_limit_s: float = TIME_LIMIT_S,
        memory_limit_mb: int = MEMORY_LIMIT_MB,
    ) -> None:
        self._time_limit_s = time_limit_s
        self._memory_limit_mb = memory_limit_mb
        self._connection = duckdb.connect(":memory:", config={**_CONFIG, "memory_limit": f"{memory_limit_mb}MB"})
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute(f"SET max_execution_time = {max(1, round(time_limit_s * 1000))}")
        self._names = {"data", "result"}
        self.tables: tuple[Table, ...] = ()
        for source in sources:
            self.tables += (self._load(source),)
        for statement in _LOCK:
            self._connection.execute(statement)

    def query(self, sql: str) -> Result:
        """Runs one reading statement of the user's; its result stays available as the table `result`.

        Raises:
            QueryError: not one reading statement, wrong by DuckDB, or past a limit.
        """
        with self._errors():
            text = reading_statement(self._connection, sql)
            self._connection.execute(
                f"CREATE OR REPLACE TEMP TABLE result AS FROM (\n{text}\n) LIMIT {MAX_RESULT_ROWS + 1}"
            )
        return self.read("result")

    def read(self, relation: str) -> Result:
        """Returns the first rows of a relation (trusted SQL) and how many there are.

        Raises:
            QueryError: more than 256 columns, or past a limit.
        """
        columns = self.columns(relation)
        if len(columns) > MAX_COLUMNS:
            raise QueryError(f"the result has {len(columns)} columns; the limit is {MAX_COLUMNS}")
        rows = self._rows(relation, columns, MAX_ROWS, MAX_CELL_CHARS)
        with self._errors():
            ((count,),) = self._connection.execute(f"SELECT count(*) FROM {relation}").fetchall()
        return Result(columns, rows, count if count <= MAX_RESULT_ROWS else None, truncated=len(rows) < count)

    def rows(self, relation: str, *, max_rows: int = MAX_ROWS, max_chars: int = MAX_CELL_CHARS) -> list[list[Any]]:
        """Returns the first rows of a relation as JSON values, at most about 256 KiB of them.

        Args:
            relation: trusted SQL: a quoted table name or a query in parentheses.
            max_rows: how many rows to give back.
            max_chars: where to cut a cell.

        Raises:
            QueryError: past a limit.
        """
        return self._rows(relation, self.columns(relation), max_rows, max_chars)

    def _rows(self, relation: str, columns: Sequence[Column], max_rows: int, max_chars: int) -> list[list[Any]]:
        rows: list[list[Any]] = []
        size = 0
        with self._errors():
            self._connection.execute(f"SELECT {select_json(columns, max_chars)} FROM {relation} LIMIT {max_rows}")
            while row := self._connection.fetchone():
                size += len(row[0].encode())
                if size > MAX_BYTES:
                    break
                rows.append(to_values(row[0], columns))
        return rows

    def columns(self, relation: str) -> tuple[Column, ...]:
        """Returns the columns of a relation (trusted SQL)."""
        with self._errors():
            described = self._connection.execute(f"DESCRIBE FROM {relation}").fetchall()
        return tuple(Column(name, kind) for name, kind, *_ in described)

    def close(self) -> None:
        """Frees the tables."""
        self._connection.close()

    def _load(self, source: Source) -> Table:
        own_name = _identifier(source.stem, self._names)
        self._names.add(own_name)
        name = own_name if self.tables else "data"
        # The file has no name: nothing is left behind even if this process is killed.
        with tempfile.TemporaryFile() as file, self._errors(TableError, source.name):
            file.write(source.content)
            file.flush()
            function = reader(source, f"/dev/fd/{file.fileno()}")
            try:
                self._check_columns(source, function)
                self._connection.execute(f"CREATE TABLE {quote(name)} AS FROM {function}")
            except (duckdb.InvalidInputException, duckdb.BinderException):
                if problem := explain(source):
                    raise TableError(f"{source.name}: {problem}") from None
                raise
            if name != own_name:
                self._connection.execute(f"CREATE VIEW {quote(own_name)} AS FROM {name}")
            rows = self._connection.execute(f"SELECT count(*) FROM {quote(name)}").fetchall()[0][0]
        return Table(name, source.name, rows, self.columns(quote(name)))

    def _check_columns(self, source: Source, function: str) -> None:
        described = self._connection.execute(f"DESCRIBE FROM {function}").fetchall()
        check_width(source.name, len(described))
        for number, (column, *_) in enumerate(described, 1):
            if len(column) > MAX_NAME_CHARS:
                raise TableError(
                    f"{source.name}: the name of column {number} has {len(column):,} characters; "
                    f"the limit is {MAX_NAME_CHARS} (does the first line name the columns?)"
                )

    def _errors(self, wrong: type[LanewiseError] = QueryError, what: str = "the query") -> Any:
        return duckdb_errors(wrong, what, time_limit_s=self._time_limit_s, memory_limit_mb=self._memory_limit_mb)


def _identifier(stem: str, taken: set[str]) -> str:
    """Returns a name that SQL takes without quotes, and that no other table has."""
    name = re.sub(r"\W+", "_", stem.lower()).strip("_") or "table"
    name = f"t_{name}" if name[0].isdigit() else name
    free = name
    number = 2
    while free in taken:
        free = f"{name}_{number}"
        number += 1
    return free
