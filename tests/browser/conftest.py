"""A real browser, and a watch over what its pages do: nothing may go wrong unseen."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, WebError, expect, sync_playwright
from playwright.sync_api import Request as PageRequest
from werkzeug.wrappers import Response

from tests.conformance import give_tickets
from tests.fleet.fleet import ROOT
from tests.scripted import Service, serving
from tests.services import missing

ARGUMENTS = (
    "--no-sandbox",  # Chromium refuses to run as root with it, and CI is root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
ARTIFACTS = ROOT / "artifacts" / "browser"
TIMEOUT_MS = 15_000.0


BLANK = '<!doctype html><title>client</title><link rel="icon" href="data:,">'


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium. Not for the session: Playwright's event loop runs in the main thread until it is left."""
    path = shutil.which("chromium")
    if path is None:
        missing("no chromium on the PATH (Debian: apt-get install chromium)")
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=path, args=ARGUMENTS) as running:
        yield running


@pytest.fixture(scope="module")
def page(browser: Browser) -> Iterator[Page]:
    """One for all tests of a module: a page of another origin begins anew anyway."""
    with browser.new_context() as context:
        yield context.new_page()


@pytest.fixture
def service() -> Iterator[Service]:
    """A scripted service with an empty page, the JavaScript client and tickets."""
    with serving() as running:
        script = (ROOT / "api" / "console" / "lanewise.js").read_text()
        running.on("GET", "/", Response(BLANK, content_type="text/html"))
        running.on("GET", "/lanewise.js", Response(script, content_type="text/javascript"))
        give_tickets(running)
        yield running


class Watch:
    """Takes notice of everything on the pages of a context that should not be.

    Args:
        origin: the only one that may be asked for anything.
    """

    def __init__(self, context: BrowserContext, origin: str) -> None:
        self.problems: list[str] = []
        self._origin = origin
        context.on("console", self._hear)
        context.on("weberror", self._fail)
        context.on("request", self._ask)

    def expect(self, pattern: str) -> None:
        """Forgives what matches, e.g. the browser's own words about a service that the test has stopped."""
        self.problems = [problem for problem in self.problems if re.search(pattern, problem) is None]

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:  # a violation of the Content-Security-Policy is one, too
            self.problems.append(f"console: {message.text}")

    def _fail(self, error: WebError) -> None:
        self.problems.append(f"page: {error.error}")

    def _ask(self, request: PageRequest) -> None:
        parts = urlsplit(request.url)
        if parts.scheme not in {"data", "blob"} and f"{parts.scheme}://{parts.netloc}" != self._origin:
            self.problems.append(f"a request to {request.url}")


OpenContext = Callable[..., tuple[BrowserContext, Watch]]


@contextmanager
def watched(browser: Browser, origin: str, **options: Any) -> Iterator[tuple[BrowserContext, Watch]]:
    """Yields a context of its own: cookies, storage, settings; what went wrong in it fails the test at the end."""
    with browser.new_context(**options) as context:
        context.set_default_timeout(TIMEOUT_MS)
        watch = Watch(context, origin)
        yield context, watch
    assert watch.problems == []


def keep_screenshot(page: Page, name: str) -> None:
    """Keeps what the page looks like under `artifacts/browser/`."""
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=ARTIFACTS / f"{re.sub('[^a-z0-9]+', '-', name.lower()).strip('-')}.png", full_page=True)


@pytest.fixture
def open_context(browser: Browser, request: pytest.FixtureRequest) -> Iterator[OpenContext]:
    """Opens watched contexts for an origin; what their pages look like at the end of the test is kept."""
    opened: list[BrowserContext] = []
    with ExitStack() as stack:

        def opener(origin: str, **options: Any) -> tuple[BrowserContext, Watch]:
            context, watch = stack.enter_context(watched(browser, origin, **options))
            opened.append(context)
            return context, watch

        yield opener
        pages = [page for context in opened for page in context.pages]
        for number, page in enumerate(pages, 1):
            keep_screenshot(page, f"{request.node.name}-{number}" if len(pages) > 1 else request.node.name)
