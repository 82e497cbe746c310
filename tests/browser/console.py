"""The console as a person meets it: names that are on the screen, nothing of how it is made."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import quote

from playwright.sync_api import BrowserContext, Locator, Page, expect

from tests.fleet.fleet import Event, Fleet

BACK_MS = 20_000.0  # until the console is live again after the gateway was away


class Console:
    """One tab of one user."""

    def __init__(self, context: BrowserContext, fleet: Fleet, user: str) -> None:
        self.page: Page = context.new_page()
        self.fleet = fleet
        self.user = user

    def open(self, *place: str) -> None:
        """Goes to a place of the console without loading the page again, except for the first."""
        self.page.goto(f"{self.fleet.url}/#/{'/'.join(quote(part) for part in place)}")

    def sign_in(self) -> None:
        """Signs in with a token, and waits until events come."""
        self.open()
        self.page.get_by_label("Access token").fill(self.fleet.token(self.user))
        self.page.get_by_role("button", name="Sign in").click()
        self.await_live()

    @property
    def connection(self) -> Locator:
        """The word for the state of the connection."""
        return self.page.get_by_role("status", name="Connection")

    def await_live(self) -> None:
        """Waits until events come."""
        expect(self.connection).to_have_text("Live", timeout=BACK_MS)

    def start(self, agent: str, **fields: Any) -> str:
        """Submits a run by the form; returns its id."""
        self.page.get_by_role("link", name="New run", exact=True).click()
        self.page.get_by_role("radio", name=agent, exact=True).check()
        for label, value in fields.items():
            self.page.get_by_label(label, exact=False).fill(str(value))
        self.page.get_by_role("button", name="Start the run").click()
        self.page.wait_for_url("**/#/runs/*")
        return self.page.url.rpartition("/")[2]

    def await_status(self, word: str) -> None:
        """Waits for the status on a run's page."""
        expect(self.page.get_by_role("status", name="Status")).to_have_text(word)

    def await_line(self, number: int) -> None:
        """Waits for a line of a story."""
        expect(self.page.locator(".timeline").get_by_text(f"line {number}", exact=True)).to_be_visible()

    def told(self) -> list[tuple[str, str]]:
        """The timeline's thoughts and texts, in their order, once the log has been read."""
        expect(self.page.locator("article.run")).not_to_have_attribute("aria-busy", "true")
        rows = self.page.locator(".timeline .step").evaluate_all(
            "(rows) => rows.map((row) => [row.className, row.innerText])"
        )
        return [(kind.split()[1], text.strip()) for kind, text in rows if kind.split()[1] in {"thinking", "stream"}]

    def stored(self, run_id: str) -> list[tuple[str, str]]:
        """The same by the log of REST."""
        return rows_of(self.fleet.events(self.user, run_id))


def rows_of(events: list[Event]) -> list[tuple[str, str]]:
    """Returns a row for each thought, and one for the tokens between two of them."""
    kinds = {"agent_thinking": "thinking", "agent_token": "stream"}
    said = [(kinds[event["type"]], event["data"]["text"]) for event in events if event["type"] in kinds]
    found: list[tuple[str, str]] = []
    for kind, rows in groupby(said, key=lambda row: row[0]):
        texts = [text for _, text in rows]
        found += [(kind, text) for text in texts] if kind == "thinking" else [(kind, "".join(texts).strip())]
    return found


def open_gate(folder: Path) -> Path:
    """Lets what waits for the folder's gate go on; returns its path."""
    gate = folder / "gate"
    gate.touch()
    return gate
