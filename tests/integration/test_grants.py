"""Grants in their table: which are valid, and what it means to replace them."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from shared.database import Database
from shared.errors import ConfigurationError
from shared.grants import MAX_GRANTS, TOOL_NAME, read_grants, replace_grants
from worker.authoring import Tool
from worker.registry import check_tool_class

NOW = datetime.now(UTC)
LATER = NOW + timedelta(days=1)
Told = list[tuple[str, datetime | None, str]]


def grant(database: Database, tools: Mapping[str, datetime | None], by: str = "root", user_id: str = "alice") -> None:
    with database.user_session(user_id) as session:
        replace_grants(session, user_id, tools, by)


def granted(database: Database, user_id: str = "alice") -> Told:
    with database.user_session(user_id) as session:
        return [(one.tool, one.expires_at, one.granted_by) for one in read_grants(session, user_id)]


def test_as_many_as_is_documented_can_be_granted() -> None:
    assert MAX_GRANTS == 500


@pytest.mark.parametrize("name", ["a", "A-1", "data_helper", "x" * 64, "", "a b", "a.b", "ä", "x" * 65, "a/b"])
def test_a_grant_can_name_each_tool_that_workers_take_and_no_other(name: str) -> None:
    tool = type("Made", (Tool,), {"__doc__": "Made.", "name": name, "run": lambda *_: None})
    taken = nullcontext() if re.search(TOOL_NAME, name) else pytest.raises(ConfigurationError, match="must be 1 to 64")
    with taken:
        check_tool_class(tool)


def test_they_are_replaced_as_a_whole_and_read_by_tool(database: Database) -> None:
    grant(database, {"search": None, "fetch": LATER})
    grant(database, {"pay": None}, user_id="bob")
    assert granted(database) == [("fetch", LATER, "root"), ("search", None, "root")]
    grant(database, {"mail": None, "fetch": LATER})
    assert granted(database) == [("fetch", LATER, "root"), ("mail", None, "root")]
    grant(database, {})
    assert granted(database) == []
    assert granted(database, "bob") == [("pay", None, "root")]


def test_one_that_has_ended_is_none(database: Database) -> None:
    grant(database, {"old": NOW - timedelta(seconds=1), "soon": NOW + timedelta(hours=1)})
    assert [tool for tool, *_ in granted(database)] == ["soon"]


def test_it_ends_in_the_midst_of_a_transaction_too(database: Database) -> None:
    with database.user_session("alice") as session:
        replace_grants(session, "alice", {"brief": datetime.now(UTC) + timedelta(seconds=0.3)}, "root")
        assert [one.tool for one in read_grants(session, "alice")] == ["brief"]
        session.execute(sa.text("SELECT pg_sleep(0.4)"))
        assert read_grants(session, "alice") == []


def test_one_that_stays_as_it_was_keeps_who_granted_it_and_when(database: Database, superuser: sa.Connection) -> None:
    grant(database, {"fetch": LATER, "search": None, "mail": None})
    superuser.execute(sa.text("UPDATE lanewise.tool_grants SET granted_at = '2020-01-01'"))
    grant(database, {"fetch": LATER, "search": None, "mail": LATER}, "second")
    assert granted(database) == [("fetch", LATER, "root"), ("mail", LATER, "second"), ("search", None, "root")]
    with database.user_session("alice") as session:
        years = {one.tool: one.granted_at.year for one in read_grants(session, "alice")}
    assert years == {"fetch": 2020, "search": 2020, "mail": NOW.year}


def test_what_was_just_replaced_is_read_anew_in_the_same_session(database: Database) -> None:
    grant(database, {"fetch": None})
    with database.user_session("alice") as session:
        before = read_grants(session, "alice")  # kept, and so is what the session has read
        assert [one.expires_at for one in before] == [None]
        replace_grants(session, "alice", {"fetch": LATER}, "second")
        assert [(one.expires_at, one.granted_by) for one in read_grants(session, "alice")] == [(LATER, "second")]


def test_of_two_who_replace_them_at_once_the_second_waits(database: Database) -> None:
    """Else each would leave what the other adds."""
    with database.user_session("alice") as first:
        replace_grants(first, "alice", {"one": None}, "first")
        second = threading.Thread(target=grant, args=(database, {"two": None}, "second"))
        second.start()
        grant(database, {"his": None}, user_id="bob")  # nobody else waits
        second.join(0.2)
        assert second.is_alive()
    second.join(10)
    assert granted(database) == [("two", None, "second")]
