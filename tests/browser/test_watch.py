"""The watch over pages: a test fails on what nobody looked at."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser
from werkzeug.wrappers import Response

from tests.browser.conftest import watched
from tests.scripted import Service

POLICY = {"Content-Security-Policy": "script-src 'self'"}


def show(browser: Browser, service: Service, script: str, markup: str = "") -> None:
    """Opens a page of the service in a watched context."""
    page = f'<!doctype html><link rel="icon" href="data:,"><script type="module" src="/page.js"></script>{markup}'
    service.on("GET", "/page", Response(page, content_type="text/html", headers=POLICY))
    service.on("GET", "/page.js", Response(script, content_type="text/javascript"))
    with watched(browser, service.url) as (context, _):
        context.new_page().goto(f"{service.url}/page", wait_until="networkidle")


def test_a_page_on_which_nothing_goes_wrong_passes(browser: Browser, service: Service) -> None:
    show(browser, service, 'console.log("well"); await fetch("/page");', "<p>quiet</p>")


@pytest.mark.parametrize(
    ("script", "markup", "problem"),
    [
        ("console.error('a complaint')", "", "a complaint"),
        ("throw new Error('thrown')", "", "thrown"),
        ("Promise.reject(new Error('unheard'))", "", "unheard"),
        ("", "<script>1</script>", "Content Security Policy"),
        ("", '<img src="http://localhost:9/x.png">', "a request to http://localhost:9/x.png"),
        ("await fetch('/missing')", "", "404"),
    ],
)
def test_what_goes_wrong_on_a_page_fails_its_test(
    browser: Browser, service: Service, script: str, markup: str, problem: str
) -> None:
    with pytest.raises(AssertionError, match=problem):
        show(browser, service, script, markup)
