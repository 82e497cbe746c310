"""What can be wrong with a user's table or query, and DuckDB's errors in words for that user."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

from shared.errors import LanewiseError

_MAX_MESSAGE_CHARS = 600
_MAX_MESSAGE_LINES = 8
_LINE = re.compile(r"^LINE \d+: (.*)\n( *\^+)$", re.MULTILINE)


class TableError(LanewiseError):
    """The document cannot be read as a table; the message says where."""

    code, status, title = "bad_table", 422, "Unreadable table"


class QueryError(LanewiseError):
    """The SQL is wrong, not allowed, or needs more than its limits."""

    code, status, title = "bad_query", 422, "Query refused"


@contextmanager
def duckdb_errors(
    wrong: type[LanewiseError], what: str, *, time_limit_s: float, memory_limit_mb: int
) -> Iterator[None]:
    """Turns what DuckDB raises into `wrong`, with a message about `what` and no trace of the engine's insides."""
    try:
        yield
    except duckdb.InterruptException:
        raise wrong(f"{what} took longer than {time_limit_s:g} s") from None
    except (duckdb.OutOfMemoryException, MemoryError):
        raise wrong(f"{what} needs more memory than it may use, at most {memory_limit_mb} MB") from None
    except duckdb.PermissionException:
        raise wrong(f"{what} reaches for a file or the network; only the given tables can be read") from None
    except duckdb.Error as error:
        message = readable(str(error)) if wrong is QueryError else unreadable(str(error))
        raise wrong(f"{what}: {message}") from None


def readable(message: str) -> str:
    """Returns DuckDB's message with the offending line of the SQL and its marker, without advice about settings."""
    head, _, rest = message.partition("\n\n")
    lines = [line for line in head.splitlines() if line.strip() and not line.lstrip().startswith("Try ")]
    marked = _LINE.search(rest)
    if marked:
        indent = marked.start(1) - marked.start()
        lines += [marked.group(1), marked.group(2)[indent:]]
    return "\n".join(lines[:_MAX_MESSAGE_LINES])[:_MAX_MESSAGE_CHARS]


def unreadable(message: str) -> str:
    """Returns the first line of DuckDB's message about a file, without the kind of error and the path."""
    if "sniffing" in message:
        return "its lines do not agree on how values are delimited and quoted"
    return re.sub(r"^[A-Z][\w ]*Error: |( in)? file ['\"]/dev/fd/\d+['\"],?|File '[^']*' ", "", message.splitlines()[0])
