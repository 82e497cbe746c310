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


def test_a_lane_knows_that_a_run_runs_by_any_event_of_its_agents(console: Page) -> None:
    statuses = evaluate(
        console,
        """
        const { Lane } = await import("/lane.js");
        const lane = new Lane({ request: () => Promise.reject(new Error("away")) });
        lane.apply(told("data", "agent_progress", { fraction: 0.5, note: "" }));
        lane.apply({ ...told("data", "run_position", { position: 3, reason: "user_limit" }), run_id: "r2" });
        lane.close();
        return [...lane.runs.values()].map((run) => run.status);
        """,
    )
    assert statuses == ["running", "queued"]


def test_a_lane_learns_what_an_unknown_run_is_though_its_events_overtake_the_answer(console: Page) -> None:
    run = evaluate(
        console,
        """
        const { Lane } = await import("/lane.js");
        const lane = new Lane({ request: () => Promise.reject(new Error("away")) });
        for (const type of ["agent_started", "agent_thinking"]) lane.apply(told("a-helper", type));
        const read = { id: "r1", agent: "story", status: "running", last_run_seq: 1, input: { title: "Of a fox" } };
        lane.put({ ...read, queue: null, created_at: at, started_at: "2026-01-01T00:00:01Z" });
        lane.close();
        return lane.runs.get("r1");
        """,
    )
    assert (run["agent"], run["title"], run["last_run_seq"]) == ("story", "Of a fox", 2)
    assert run["started_at"] == "2026-01-01T00:00:01Z"


def test_a_lane_that_is_asked_while_it_looks_looks_again(console: Page) -> None:
    looks = evaluate(
        console,
        """
        const { Lane } = await import("/lane.js");
        const waiting = [];
        const lane = new Lane({ request: (method, path) => new Promise((answer) => waiting.push({ path, answer })) });
        const asked = async (count) => {  // by itself it looks again after 15 s
          for (let n = 0; n < 500 && waiting.length < count; n++) await new Promise((go) => setTimeout(go, 10));
        };
        lane.refresh();
        await asked(1);
        lane.refresh();  // the slots may have changed since it was asked for them
        waiting[0].answer({});
        await asked(2);
        lane.close();
        return waiting.map((look) => look.path);
        """,
    )
    assert looks == ["/v1/me", "/v1/me"]
