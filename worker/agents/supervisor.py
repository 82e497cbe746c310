"""`supervisor`: one request in plain words, answered by all the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel

from shared.context import UserExecutionContext
from worker.agents.triage import TriageInput
from worker.authoring import Agent, AgentRun
from worker.questions.routing import MAX_DATA_ROUTES, SURE_ENOUGH
from worker.workflow import Choice, Parallel, Results, Sequence, Step, Workflow

_NO_PROFILE = ("profile", "joined")
_DATA_STEPS = tuple(f"data-{number}" for number in range(1, MAX_DATA_ROUTES + 1))


class SupervisorInput(TriageInput):
    """A request, and which documents it is about."""


def followed(triage: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the routes that are sure enough to be followed, by the step that follows them."""
    routes = [route for route in triage["routes"] if route["confidence"] >= SURE_ENOUGH]
    data = [route for route in routes if route["agent"] == "data"]
    research = [route for route in routes if route["agent"] == "research"]
    return dict(zip(_DATA_STEPS, data, strict=False)) | ({"research": research[0]} if research else {})


def _part(step: str, agent: str) -> Choice:
    """Returns the part that does a step if triage wants it."""

    def choose(results: Results) -> str:
        return "do" if step in followed(results["triage"]) else "leave"

    def given(results: Results) -> Any:
        return followed(results["triage"])[step]["input"]

    work = Step(step, agent, input=given, on_failure="continue", weight=2)
    return Choice(f"{step}-wanted", choose, {"do": work, "leave": None})


def _findings(results: Results) -> dict[str, Any]:
    """Returns the input of `report`."""
    routes = followed(results["triage"])
    data = []
    for step in _DATA_STEPS:
        if found := results.get(step):
            kept = {key: value for key, value in found.items() if not (found["query"] and key in _NO_PROFILE)}
            data.append({**kept, "about": _about(routes[step]["reason"])})
    return {
        "request": results.input["request"],
        "data": data,
        "research": results.get("research"),
        "notes": list(_notes(results)),
    }


def _about(reason: str) -> str:
    return reason.partition("; ")[0]


def _notes(results: Results) -> Iterator[str]:
    """Yields what could not be done, and why."""
    triage = results["triage"]
    for route in triage["routes"]:
        _, _, note = route["reason"].partition("; ")
        if route["confidence"] < SURE_ENOUGH:
            yield f"Not asked, for it hardly fits ({route['confidence']:.0%}): {route['agent']}, {route['reason']}"
        elif note:
            yield f"How I understood it: {note}"
    if triage["unplaced"]:
        yield f"Words that I could not place: {', '.join(triage['unplaced'])}"
    for step, error in results.errors.items():
        yield f"{step} failed: {error['message']}"
    yield from (results.get("research") or {}).get("notes", [])[:10]


def _request(results: Results) -> dict[str, Any]:
    return {key: value for key, value in results.input.items() if value is not None}


ANSWER = Workflow(
    "answer",
    Sequence(
        Step("triage", "triage", input=_request),
        Parallel(*(_part(step, "data") for step in _DATA_STEPS), _part("research", "research")),
        Step("report", "report", input=_findings),
    ),
)


class Supervisor(Agent):
    """Answers a request in plain words from your tables and documents, with a report; give it `request`."""

    name: ClassVar[str] = "supervisor"
    Input: ClassVar[type[BaseModel]] = SupervisorInput
    workflows: ClassVar[tuple[Workflow, ...]] = (ANSWER,)
    time_limit_s: ClassVar[float] = 900

    async def execute(self, context: UserExecutionContext, run: AgentRun) -> dict[str, Any]:
        """Returns what `report` does, and `routing` (what `triage` found) and `parts` (what became of each step)."""
        run.emit.thinking("finding out who can answer this")
        results = await run.workflows.orchestrate_workflow("answer", context, run)
        return {**results["report"], "routing": results["triage"], "parts": list(_parts(results))}


def _parts(results: Results) -> Iterator[dict[str, Any]]:
    for step in ("triage", *followed(results["triage"]), "report"):
        error = results.errors.get(step)
        agent = "data" if step in _DATA_STEPS else step
        yield {"step": step, "agent": agent, "status": "failed" if error else "completed",
               "error": dict(error) if error else None}  # fmt: skip
