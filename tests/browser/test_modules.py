"""Modules of the console by themselves, in a real browser: what takes many events, or just the wrong ones, to see."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page
from werkzeug.wrappers import Response

from tests.fleet.fleet import ROOT
from tests.scripted import Service

EVENTS = """
    let seq = 0;
    const at = "2026-01-01T00:00:00Z";
    const told = (agent, type, data = {}) => ({ run_id: "r1", run_seq: ++seq, agent, type, data, at });
"""


@pytest.fixture
def console(page: Page, service: Service) -> Page:
    """A blank page of a service that has the console's modules."""
    for path in (ROOT / "api" / "console").glob("*.js"):
        service.answers[("GET", f"/{path.name}")] = [Response(path.read_text(), content_type="text/javascript")]
    page.goto(service.url)
    return page


def evaluate(page: Page, script: str) -> Any:
    """Returns what the body of an async function returns."""
    return page.evaluate(f"async () => {{ {EVENTS} {script} }}")


def test_a_timeline_that_forgets_its_oldest_rows_says_which(console: Page) -> None:
    said, shown, heads = evaluate(
        console,
        """
        const { Timeline } = await import("/timeline.js");
        const timeline = new Timeline();
        const thoughts = (agent, count) =>
          Array.from({ length: count }, () => told(agent, "agent_thinking", { text: String(seq + 1) }));
        timeline.apply([told("first", "agent_started"), ...thoughts("first", 500)]);
        timeline.apply([told("", "run_recovering", { attempt: 1 })]);
        timeline.apply([told("second", "agent_started")]);
        for (const event of thoughts("second", 120)) timeline.apply([event]);
        const texts = (selector) => [...timeline.element.querySelectorAll(selector)].map((found) => found.textContent);
        return [timeline.first, texts(".step").map(Number), texts("h3")];
        """,
    )
    assert said > 1
    assert shown == [*range(said, 502), *range(504, 624)]
    assert heads == ["first", "second"]
