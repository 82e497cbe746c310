"""The user's tables: read, locked in, queried. Needs DuckDB, the extra `data`."""

from __future__ import annotations

from worker.tools.tables.database import Result, Table, Tables
from worker.tools.tables.errors import QueryError, TableError
from worker.tools.tables.loading import Format, Source, format_of
from worker.tools.tables.values import Column, quote

__all__ = ["Column", "Format", "QueryError", "Result", "Source", "Table", "TableError", "Tables", "format_of", "quote"]
