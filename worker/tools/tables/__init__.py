"""The user's tables: read, locked in, queried. Needs DuckDB (`pip install 'lanewise[data]'`)."""

from __future__ import annotations

try:
    import duckdb as _duckdb  # noqa: F401 - told here, once, with what to do
except ImportError as error:
    raise ImportError("the data agent needs DuckDB: pip install 'lanewise[data]'") from error

from worker.tools.tables.database import Result, Table, Tables
from worker.tools.tables.errors import QueryError, TableError
from worker.tools.tables.loading import Format, Source, format_of
from worker.tools.tables.values import Column, quote

__all__ = ["Column", "Format", "QueryError", "Result", "Source", "Table", "TableError", "Tables", "format_of", "quote"]
