"""`supervisor`: one request in plain words, answered by all the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from pydantic import BaseModel

from shared.context import UserExecutionContext
from worker.agents.triage import TriageInput
from worker.authoring import Agent, AgentRun
from worker.questions.routing import SURE_ENOUGH
from worker.workflow import Choice, Parallel, Results, Sequence, Step, Workflow

_DATA_STEPS = ("data-1", "data-2")
_DROPPED = ("profile", "joined")  # where there is a result, a report needs no profile


class SupervisorInput(TriageInput):
    """A request, and which documents it is about."""


def followed(triage: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the routes that are sure enough to be followed, by the step that follows them."""
    routes = [route for route in triage["routes"] if route["confidence"] >= SURE_ENOUGH]
    data = [route for route in routes if route["agent"] == "data"]
    research = [route for route in routes if route["agent"] == "research"]
    steps = dict(zip(_DATA_STEPS, data, strict=False)) if len(data) > 1 else {"data": data[0]} if data else {}
    return steps | ({"research": research[0]} if research else {})


def _step(name: str, agent: str) -> Step:
    """Returns the step that does what triage wants from an agent; the report says so if it fails."""
    return Step(
        name, agent, input=lambda results: followed(results["triage"])[name]["input"], on_failure="continue", weight=2
    )


def _figures(results: Results) -> str:
    return {"data": "one", "data-1": "two"}.get(next(iter(followed(results["triage"])), ""), "none")


def _passages(results: Results) -> str:
    return "some" if "research" in followed(results["triage"]) else "none"


def _findings(results: Results) -> dict[str, Any]:
    """Returns the input of `report`."""
    routes = followed(results["triage"])
    data = []
    for step in ("data", *_DATA_STEPS):
        if found := results.get(step):
            kept = {key: value for key, value in found.items() if not (found["query"] and key in _DROPPED)}
            data.append({**kept, "about": _about(routes[step]["reason"])})
    return {
        "request": results.input.request,
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
        yield f"Words that I made no use of: {', '.join(triage['unplaced'])}"
    for step, error in results.errors.items():
        yield f"{step} failed: {error['message']}"
    yield from (results.get("research") or {}).get("notes", [])[:10]


def _request(results: Results) -> dict[str, Any]:
    return dict(results.input.model_dump(exclude_none=True))


ANSWER = Workflow(
    "answer",
    Sequence(
        Step("triage", "triage", input=_request),
        Parallel(
            Choice(
                "figures",
                _figures,
                {"none": None, "one": _step("data", "data"), "two": Parallel(*(_step(n, "data") for n in _DATA_STEPS))},
            ),
            Choice("passages", _passages, {"none": None, "some": _step("research", "research")}),
        ),
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
        agent = step.partition("-")[0]
        yield {"step": step, "agent": agent, "status": "failed" if error else "completed",
               "error": dict(error) if error else None}  # fmt: skip
