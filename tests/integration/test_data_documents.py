"""The data tool over real documents, as the run's own role: it finds the user's, and never learns of another's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from shared.context import UserExecutionContext
from shared.models import Document
from shared.services import Services
from shared.settings import Settings
from shared.signing import TOKEN_PURPOSE, database_token, derive_key
from tests.services import SECRETS, start_run, submit_run
from worker.authoring import ToolError
from worker.managers import SandboxDatabase
from worker.tools.data_helper import DataHelperTool
from worker.toolsystem import UserContextToolFactory, UserToolSystem

SALES = b"region,amount\nnorth,1.5\nsouth,2\n"
STORES = b'{"region": "north", "boss": "Ann"}\n{"region": "south", "boss": "Bo"}\n'


class Nowhere:
    """No events, no small values: they are not asked for here."""

    def send_event(self, context: UserExecutionContext, kind: str, agent: str, data: dict[str, Any]) -> None:
        del kind, agent, data
        assert context.user_id == "alice"

    def get(self, key: str) -> None:
        raise AssertionError(key)

    def set(self, key: str, value: Any, ttl_s: float) -> None:
        raise AssertionError(key, value, ttl_s)


def put(services: Services, user_id: str, name: str, content: bytes, content_type: str = "text/csv") -> None:
    with services.database.user_session(user_id) as session:
        session.add(
            Document(
                user_id=user_id, name=name, content_type=content_type, size=len(content), sha256="", content=content
            )
        )


@pytest.fixture
def tools(services: Services, settings: Settings) -> Iterator[UserToolSystem]:
    """The data tool in a running run of alice's."""
    run = start_run(services, submit_run(services, "alice"))
    context = UserExecutionContext.from_request("alice", run.thread_id, run.id)
    token = database_token(derive_key(SECRETS[0], TOKEN_PURPOSE), "alice", run.id, run.attempt, 60)
    assert settings.run_database_url is not None
    with closing(SandboxDatabase(settings.run_database_url.get_secret_value(), token)) as database:
        factory = UserContextToolFactory(database, Nowhere())
        yield factory.create_user_tool_system(context, [DataHelperTool], lambda _: Nowhere())


def test_documents_are_opened_and_joined(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "sales.csv", SALES)
    put(services, "alice", "stores.jsonl", STORES, "application/x-ndjson")
    put(services, "bob", "sales.csv", b"region,amount\nbobs,1000000\n")
    opened = tools.call("data_helper", action="open", document="sales.csv", join=["stores.jsonl"])
    assert (opened["table"]["source"], opened["table"]["rows"]) == ("sales.csv", 2)
    assert [joined["name"] for joined in opened["joined"]] == ["stores"]
    asked = tools.call("data_helper", action="query", sql="SELECT boss, amount FROM sales JOIN stores USING (region)")
    assert sorted(asked["rows"]) == [["Ann", 1.5], ["Bo", 2]]


def test_an_unknown_name_is_told_with_the_nearest_of_the_users_own(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "sales.csv", SALES)
    put(services, "bob", "sales_of_bob.csv", SALES)
    with pytest.raises(ToolError) as told:
        tools.call("data_helper", action="open", document="sales_of_bob.csv")
    assert "no document is called 'sales_of_bob.csv'; did you mean 'sales.csv'?; there are: sales.csv" in str(
        told.value
    )


def test_without_documents_it_says_how_to_make_one(services: Services, tools: UserToolSystem) -> None:
    put(services, "bob", "sales.csv", SALES)
    with pytest.raises(ToolError, match=r"'sales.csv': there are none yet \(PUT /v1/documents/sales.csv makes it\)"):
        tools.call("data_helper", action="open", document="sales.csv")


def test_a_document_that_is_no_table_says_so(services: Services, tools: UserToolSystem) -> None:
    put(services, "alice", "notes.txt", b"hello", "text/plain")
    with pytest.raises(ToolError, match=r"'notes.txt' \(text/plain\) is no table"):
        tools.call("data_helper", action="open", document="notes.txt")
