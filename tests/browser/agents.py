"""Agents for the console's tests: one tells a long story, one says markup wherever agents can say anything."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from lanewise import Agent, AgentRun, Retry, UserExecutionContext
from worker.authoring import Tool, ToolError

POLL_S = 0.01
BOUND_S = 60.0


def canary(place: str) -> str:
    """Returns markup that leaves its mark on a page that takes it for more than text."""
    mark = f"ran.push('{place}')"
    text = f'<b data-canary="{place}" onclick="{mark}">canary-{place}</b>'
    return f'{text}<img src=x onerror="{mark}"><script>{mark}</script>'


def short_canary(place: str) -> str:
    """As `canary`, for names: at most 64 characters, no slash."""
    return f"<b data-canary={place}>canary-{place}"


def pass_gate(gate: Path | None) -> None:
    """Waits until a file is there."""
    deadline = time.monotonic() + BOUND_S
    while gate is not None and not gate.exists() and time.monotonic() < deadline:
        time.sleep(POLL_S)


class Plot(BaseModel):
    lines: int = Field(10, ge=1, le=1000, description="how long the story is")
    title: str = Field("A story", max_length=100, description="what it is called")
    gate: Path | None = Field(None, description="half of the story is told when this file is there")
    seed: int | None = Field(None, description="means nothing")
    notes: dict[str, Any] | None = Field(None, description="mean nothing")


class Story(Agent):
    """Tells a story line by line."""

    name: ClassVar[str] = "story"
    Input: ClassVar[type[BaseModel]] = Plot

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        plot = run.input
        for number in range(1, plot.lines + 1):
            if number == plot.lines // 2 + 1:
                pass_gate(plot.gate)
            run.emit.thinking(f"line {number}")
            run.emit.token(f"Word {number} ")
            run.emit.token("and more.")
            run.emit.progress(number / plot.lines, f"told {number}")
        text = f"# {plot.title}\n\nIt had **{plot.lines}** lines.\n\n- one\n- two\n"
        run.artifacts.save("story.md", text, "text/markdown")
        return {"markdown": text}


class Nothing(BaseModel):
    pass


class Break(Tool):
    """Fails."""

    name = "break"
    Parameters = Nothing

    def run(self, context: UserExecutionContext, parameters: Any) -> Any:
        raise ToolError(canary("tool-error"))


class Mark(BaseModel):
    text: str = Field(description=canary("field-description"), examples=[canary("field-example")])
    kind: Literal["markdown", "parts", "error"] = Field("markdown", title=canary("field-title"))
    gate: Path | None = None


class Inject(Agent):
    __doc__ = canary("agent-description")

    name: ClassVar[str] = "inject"
    Input: ClassVar[type[BaseModel]] = Mark
    tools = (Break,)

    def execute(self, context: UserExecutionContext, run: AgentRun) -> Any:
        run.emit.thinking(canary("thinking"))
        run.emit.progress(0.5, canary("progress"))
        run.emit.token(canary("token"))
        pass_gate(run.input.gate)
        if run.state.update(lambda before: (before or 0) + 1, "run") == 1:
            raise Retry(canary("retry"), after_s=0)
        for tool in ("break", short_canary("tool-name")):
            with suppress(ToolError):
                run.tools.call(tool)
        run.artifacts.save("canary.md", canary("artifact-markdown"), "text/markdown")
        run.artifacts.save("canary.html", canary("artifact-html"), "text/html")
        run.artifacts.save("canary.json", json.dumps(canary("artifact-json")), "application/json")
        run.artifacts.save("canary.svg", picture("artifact-image"), "image/svg+xml")
        if run.input.kind == "error":
            raise type(short_canary("error-type"), (Exception,), {})(canary("error-message"))
        return report() if run.input.kind == "markdown" else parts()


def picture(place: str) -> str:
    """Returns a picture that does what it can to run something."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="80" height="20" onload="parent.ran.push(\'{place}\')">'
        f"<script>parent.ran.push('{place}')</script><text y='15'>picture</text></svg>"
    )


def report() -> dict[str, Any]:
    """Returns a report with markup and dangerous targets in all that Markdown has."""
    lines = [
        f"# {canary('heading')}",
        f"A paragraph {canary('paragraph')} with **{short_canary('bold')}** and `{canary('code')}`.",
        f"- {canary('item')}",
        f"> {canary('quote')}",
        f"```\n{canary('fence')}\n```",
        f"| a | b |\n|---|---|\n| {short_canary('cell')} | 1 |",
        "[canary-link](javascript:ran.push('link'))",
        "[canary-case](JaVaScRiPt:ran.push('case'))",
        "[canary-space]( \tjava\nscript:ran.push('space'))",
        "[canary-data](data:text/html,<script>ran.push('data')</script>)",
        '[canary-quote](https://example.org/"onclick="ran.push(\'quoted\')")',
        "![canary-image](javascript:ran.push('image'))",
        "![canary-pixel](https://example.org/pixel.png)",
        "<javascript:ran.push('angle')>",
        f"[{short_canary('label')}](https://example.org/)",
        canary("html-block"),
    ]
    return {"markdown": "\n\n".join(lines), "citations": [{"id": 1, "document": canary("citation")}]}


def parts() -> dict[str, Any]:
    """Returns what else the console knows how to show."""
    return {
        "answer": canary("answer"),
        "passages": [{"text": canary("passage")}],
        "query": {"columns": [{"name": canary("column")}], "rows": [[canary("row")], [{"deep": canary("deep")}]]},
        "chart": {"title": canary("chart-title"), "svg": picture("chart")},
        "further": {canary("key"): canary("value")},
    }
