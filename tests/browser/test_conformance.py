"""The JavaScript client plays the scenarios that each client must pass, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from typing import Any

import pytest
from playwright.sync_api import Browser, Page
from werkzeug.wrappers import Response

from tests.conformance import SCENARIOS, Flood, Scenario, give_tickets, judge, play
from tests.fleet.fleet import ROOT
from tests.scripted import Service, serving

BLANK = '<!doctype html><title>conformance</title><link rel="icon" href="data:,">'
# Consumes as the documentation says, until the log is as long as it must be, or the stream has closed.
CONSUME = """
async ({ after, wanted, crashAt, flooded }) => {
  const { Api, EventStream } = await import("/lanewise.js");
  const api = new Api({ token: "a-token" });
  const log = [], states = [];
  let position = null;
  const storage = { get: () => position, set: (seq) => { position = seq; } };
  const standStill = async () => { flooded = await (await fetch("/flooded")).json(); };
  const follow = async () => {
    let enough;
    const done = new Promise((resolve) => { enough = resolve; });
    const note = (entry) => {
      if (log.length === crashAt) { crashAt = null; throw new Error("the consumer fails"); }
      if (log.push(entry) >= wanted) enough();
    };
    const stream = new EventStream({
      api, after, storage,
      onEvent: (event) => {
        note(event.seq);
        return flooded && event.seq === 1 ? standStill() : undefined;
      },
      onSnapshot: (snapshot) => note([snapshot.reason, snapshot.head, snapshot.runs]),
      onState: (state) => {
        states.push(state);
        if (state.state !== "closed") return;
        if (state.code !== undefined) log.push({ end: state.code });
        enough();
      },
    });
    const ended = stream.start();
    ended.catch(() => {});
    await done;
    stream.close();
    await ended;
  };
  const bound = new Promise((_, reject) => { setTimeout(() => reject(new Error(JSON.stringify(log))), 20000); });
  const crashes = crashAt !== null;
  const first = await Promise.race([bound, follow().catch((error) => error)]);
  if (crashes !== first instanceof Error) throw first ?? new Error("the consumer's error was lost");
  if (crashes) await Promise.race([bound, follow()]);
  return { log, states, flooded };
}
"""


@pytest.fixture
def service() -> Iterator[Service]:
    with serving() as running:
        script = (ROOT / "api" / "console" / "lanewise.js").read_text()
        running.on("GET", "/", Response(BLANK, content_type="text/html"))
        running.on("GET", "/lanewise.js", Response(script, content_type="text/javascript"))
        give_tickets(running)
        yield running


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One for all: a page of another origin begins anew anyway."""
    with browser.new_context() as context:
        yield context.new_page()


def consume(page: Page, service: Service, **options: Any) -> dict[str, Any]:
    """Returns the log and the states of the client on the page, and what the service said of a flood."""
    page.goto(service.url)
    wanted = {"after": 0, "wanted": 1, "crashAt": None, "flooded": None, **options}
    return dict(page.evaluate(CONSUME, wanted))


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_module_passes(page: Page, service: Service, scenario: Scenario) -> None:
    play(service, scenario)
    done = consume(page, service, after=scenario.after, wanted=len(scenario.log), crashAt=scenario.crash_at)
    judge(service, scenario, done["log"])
    names = [name for name, _ in groupby(state["state"] for state in done["states"])]
    assert names[-1] == "closed"
    assert scenario.states in (None, names)
    tickets = [hello["ticket"] for hello in service.hellos]
    assert len(set(tickets)) == len(tickets), "a ticket was used twice"
    assert "ticket-" not in "".join(request.url for request in service.requests)


def test_a_slow_consumer_is_not_sent_more_than_it_can_take(page: Page, service: Service) -> None:
    flood = Flood(service, blocked_s=10)
    done = consume(page, service, wanted=flood.count, flooded=True)
    assert done["flooded"] == {"stopped": True, "back": False}
    assert done["log"] == list(range(1, flood.count + 1))
    assert flood.stopped_at is not None, "all was taken, for a consumer that stood still"
    waiting = [state["reason"] for state in done["states"] if state["state"] == "waiting"]
    assert waiting
    assert set(waiting) == {"events come faster than they are handled"}
