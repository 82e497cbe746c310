"""`triage`: reads a request in plain words and says which agents shall do what, and why."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import sqlalchemy as sa
from pydantic import BaseModel, Field, StringConstraints

from shared.context import UserExecutionContext
from shared.errors import InvalidError
from worker.authoring import Agent, AgentRun
from worker.model import Model, ModelError
from worker.model.settings import is_named
from worker.questions.advice import advise
from worker.questions.library import Library
from worker.questions.reading import TableLook
from worker.questions.routing import Route, Router, Routing
from worker.tools.data_helper import DocumentName, Strict
from worker.tools.tables import Source, TableError, Tables, format_of

MAX_REQUEST_CHARS = 2_000

Request = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=MAX_REQUEST_CHARS),
    Field(description="in plain words"),
]
Documents = Annotated[list[DocumentName], Field(min_length=1, max_length=200)]


class TriageInput(Strict):
    """What somebody wants to know."""

    request: Request = Field(examples=["How many certificates are there per country, and can I add one?"])
    documents: Documents | None = Field(None, description="only these of your documents; left out: all of them")


class Triage(Agent):
    """Routes a request in plain words to the agents `data` and `research`, with reasons and confidence."""

    name: ClassVar[str] = "triage"
    Input: ClassVar[type[BaseModel]] = TriageInput
    time_limit_s: ClassVar[float] = 120
    network: ClassVar[bool] = is_named()  # for the model

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, Any]:
        """Returns `request`, `routes` (best first), `unplaced`, `summary`, and whether `rules` or a `model` routed it.

        A route is `{"agent", "confidence", "reason", "input"}`.
        """
        del context
        routed = await run.state.step("route", self._route, run.input, run)
        memory = routed["memory"]
        if memory:
            await asyncio.to_thread(run.state.update, lambda _: memory)
        run.emit.thinking(routed["summary"])
        run.emit.progress(1.0, "routed")
        return {key: value for key, value in routed.items() if key != "memory"}

    async def _route(self, given: TriageInput, run: AgentRun) -> dict[str, Any]:
        library = await asyncio.to_thread(self._library, given, run)
        desk = Desk(run)
        try:
            routing, by = await self._by_rules(given.request, library, desk, run), "rules"
            if advised := await self._by_model(given.request, library, desk, run):
                routing, by = Routing(given.request, advised, memory=routing.memory), "model"
        finally:
            desk.close()
        return {
            "request": given.request,
            "routes": [_within(route.to_json(), given.documents, library) for route in routing.routes],
            "unplaced": list(dict.fromkeys(routing.unplaced)),
            "summary": routing.summary,
            "by": by,
            "memory": routing.memory,
        }

    def _library(self, given: TriageInput, run: AgentRun) -> Library:
        with run.db() as session:
            library = Library.of(session, given.documents)
        names = {table.name for table in library.tables} | {prose.name for prose in library.prose}
        if missing := sorted(set(given.documents or ()) - names):
            raise InvalidError(f"documents: no document is called {missing[0]!r}")
        counts = _count(len(library.tables), "table"), _count(len(library.prose), "text")
        run.emit.thinking(f"to choose from: {counts[0]}, {counts[1]}")
        run.emit.progress(0.2, "read the list of documents")
        return library

    async def _by_rules(self, request: str, library: Library, desk: Desk, run: AgentRun) -> Routing:
        memory = await asyncio.to_thread(run.state.load)
        router = Router(library, desk.open, memory, run.emit.thinking)
        return await asyncio.to_thread(router.route, request)

    async def _by_model(self, request: str, library: Library, desk: Desk, run: AgentRun) -> tuple[Route, ...]:
        """Returns a model's routes; none if there is no model, or if what it said cannot be followed."""
        try:
            model = Model.from_environment(run.record_usage)
            return await advise(model, request, library, desk.open) if model else ()
        except ModelError as error:
            run.emit.thinking(f"routing by rules, because: {error.message}")
            return ()


class Desk:
    """Where the user's tables lie open while a request is read."""

    def __init__(self, run: AgentRun) -> None:
        self._run = run
        self._open: dict[str, tuple[Tables, TableLook]] = {}

    def open(self, name: str) -> TableLook:
        """Opens a table of the user's.

        Raises:
            TableError: the document is no table.
        """
        if name not in self._open:
            with self._run.db() as session:
                select = sa.text("SELECT content, content_type FROM documents WHERE name = :name")
                row = session.execute(select, {"name": name}).one_or_none()
            if row is None:
                raise TableError(f"{name} was deleted meanwhile")
            tables = Tables([Source(name, bytes(row.content), format_of(name, row.content_type))])
            table = tables.tables[0]
            look = TableLook(name, table.columns, table.rows, lambda sql: tables.query(sql).rows)
            self._open[name] = (tables, look)
        return self._open[name][1]

    def close(self) -> None:
        """Lets go of the tables."""
        for tables, _ in self._open.values():
            tables.close()


def _within(route: dict[str, Any], documents: Sequence[str] | None, library: Library) -> dict[str, Any]:
    """Keeps research to the documents that were given, and away from tables."""
    if (documents or library.tables) and route["agent"] == "research":
        route["input"]["documents"] = [prose.name for prose in library.prose]
    return route


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number or 'no'} {what}s"
