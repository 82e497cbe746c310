"""Lets one reading statement through and nothing else, judged by DuckDB's own syntax tree, not by the text.

The kind of the statement is not enough: `WITH x AS (DELETE … RETURNING *) FROM x` and `WITH x AS (COPY … TO …)` are
SELECT statements to DuckDB.
"""

from __future__ import annotations

import duckdb

from worker.tools.tables.errors import QueryError

MAX_SQL_CHARS = 10_000

_READING_NODES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"})
_TABLE_FUNCTIONS = frozenset({"range", "generate_series", "unnest", "json_each", "json_tree"})
# The sleeps outlast the time limit, which the engine looks at between blocks of rows only.
_REFUSED_FUNCTIONS = frozenset({"sleep_ms", "pg_sleep", "write_log", "current_setting"})
_PARTS = """
SELECT DISTINCT
    CASE WHEN key = 'type' THEN 'node' WHEN path LIKE '%.function' THEN 'table function' ELSE 'function' END,
    lower(atom ->> '$')
FROM json_tree(json_serialize_sql($sql))
WHERE (key = 'type' AND atom ->> '$' LIKE '%NODE') OR key = 'function_name'
"""


def reading_statement(connection: duckdb.DuckDBPyConnection, sql: str) -> str:
    """Returns the statement without what may trail it (`;` and comments), so that it can stand in parentheses.

    Raises:
        QueryError: not exactly one statement, one that does more than read, or a function that is not available.
        duckdb.Error: it cannot be parsed.
    """
    if len(sql) > MAX_SQL_CHARS:
        raise QueryError(f"the SQL has {len(sql):,} characters; the limit is {MAX_SQL_CHARS:,}")
    statements = connection.extract_statements(sql)
    if len(statements) != 1:
        raise QueryError(f"one SQL statement is expected, not {len(statements)}")
    if statements[0].type != duckdb.StatementType.SELECT:
        raise QueryError(f"only reading statements (SELECT, WITH, FROM, DESCRIBE) can be run, not {_verb(sql)}")
    for kind, name in connection.execute(_PARTS, {"sql": sql}).fetchall():
        if kind == "node" and name.upper() not in _READING_NODES:
            raise QueryError("a WITH clause may only read: INSERT, UPDATE, DELETE and COPY are not available")
        if name in _REFUSED_FUNCTIONS or (kind == "table function" and name not in _TABLE_FUNCTIONS):
            raise QueryError(f"the {kind} {name!r} is not available: a query reads only the given tables")
    return _without_tail(sql)


def _verb(sql: str) -> str:
    words = [token for token in sql.split() if not token.startswith("--")]
    return words[0][:20].upper() if words else "nothing"


def _without_tail(sql: str) -> str:
    text = sql.encode()
    end = len(text)
    for offset, kind in reversed(duckdb.tokenize(sql)):
        if kind != duckdb.token_type.comment and text[offset : offset + 1] != b";":
            break
        end = offset
    return text[:end].decode()
