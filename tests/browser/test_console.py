"""People at the console: what they see is what happened, whatever happens to page and service meanwhile."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from playwright.sync_api import Page, Route, WebSocketRoute, expect

from tests.browser.agents import canary, short_canary
from tests.browser.conftest import OpenContext, Watch, keep_screenshot
from tests.browser.console import Console
from tests.fleet.fleet import Fleet, Run, new_user

AWAY = r"net::ERR_|WebSocket connection to"  # how a browser tells that a service is away
PHONE = {"viewport": {"width": 360, "height": 740}, "device_scale_factor": 2, "is_mobile": True, "has_touch": True}
MAX_TABS = 60


@pytest.fixture
def open_console(fleet: Fleet, open_context: OpenContext) -> Callable[..., tuple[Console, Watch]]:
    """Opens a console in a browser context of its own, signed in as a user who has nothing yet."""

    def opener(name: str, *, sign_in: bool = True, **options: Any) -> tuple[Console, Watch]:
        context, watch = open_context(fleet.url, **options)
        console = Console(context, fleet, new_user(name))
        if sign_in:
            console.sign_in()
        return console, watch

    return opener


OpenConsole = Callable[..., tuple[Console, Watch]]


def test_a_run_is_submitted_and_watched_to_its_end(open_console: OpenConsole, tmp_path: Path) -> None:
    console, _ = open_console("ada")
    gate = tmp_path / "gate"
    run_id = console.start("story", lines=12, title="Of a fox", gate=gate)
    console.await_line(6)
    console.await_status("Running")
    expect(console.page.get_by_role("progressbar", name="Progress of the run")).to_have_js_property("value", 0.5)
    expect(console.page.get_by_text("line 7", exact=True)).to_have_count(0)
    gate.touch()
    console.await_status("Completed")
    expect(console.page.get_by_role("heading", name="Of a fox")).to_be_visible()
    expect(console.page.get_by_role("listitem").get_by_text("one", exact=True)).to_be_visible()
    assert console.told() == console.stored(run_id)
    console.page.get_by_role("region", name="Artifacts").get_by_role("button", name="story.md", exact=True).click()
    expect(console.page.get_by_role("dialog").get_by_role("heading", name="Of a fox")).to_be_visible()
    console.page.keyboard.press("Escape")
    expect(console.page.get_by_role("dialog")).to_have_count(0)


def test_a_reload_in_the_middle_leaves_no_gap(open_console: OpenConsole, tmp_path: Path) -> None:
    console, _ = open_console("reloader")
    gate = tmp_path / "gate"
    run_id = console.start("story", lines=160, gate=gate)
    console.await_line(80)
    console.page.reload()
    console.await_live()
    gate.touch()
    console.page.reload()  # while events come
    console.await_status("Completed")
    stored = console.stored(run_id)
    assert len(stored) == 320
    steps = console.page.locator(".timeline .step")
    earlier = console.page.get_by_role("button", name="Show earlier events")
    while earlier.is_visible():
        count = steps.count()
        earlier.dblclick()
        expect(steps.nth(count)).to_be_attached()
    shown = console.told()
    assert "".join(text for _, text in shown) == "".join(text for _, text in stored)
    console.open()
    expect(console.page.get_by_role("list", name="Recent runs").get_by_text("Completed")).to_be_visible()


def test_a_gateway_that_restarts_in_the_middle_leaves_no_gap(
    open_console: OpenConsole, fleet: Fleet, tmp_path: Path
) -> None:
    console, watch = open_console("patient")
    gate = tmp_path / "gate"
    run_id = console.start("story", lines=40, title="Of a fox", gate=gate)
    console.await_line(20)
    fleet.process("api").terminate()
    expect(console.page.get_by_text("Away from the service")).to_be_visible()
    console.page.context.set_offline(True)  # however soon the gateway is back
    console.open()
    console.open("runs", run_id)
    expect(console.page.get_by_text("Loading…")).to_be_visible()
    gate.touch()  # the run ends while nobody can be told
    fleet.wait(console.user, run_id)
    console.page.context.set_offline(False)
    console.await_live()
    expect(console.page.get_by_text("Away from the service")).to_be_hidden()
    console.await_status("Completed")
    expect(console.page.get_by_role("heading", name="Of a fox")).to_be_visible()
    assert console.told() == console.stored(run_id)
    fleet.await_ready()
    watch.expect(AWAY)


def test_a_result_that_cannot_be_read_at_first_is_shown_later(open_console: OpenConsole, tmp_path: Path) -> None:
    console, watch = open_console("persistent")
    run_id = console.start("story", lines=4, title="Of a fox", gate=tmp_path / "gate")
    console.await_line(2)
    lost: list[str] = []

    def lose(route: Route) -> None:
        lost.append(route.request.url)
        route.abort()

    for path in (f"/v1/runs/{run_id}", f"/v1/runs/{run_id}/artifacts"):
        console.page.route(f"{console.fleet.url}{path}", lose, times=1)
    (tmp_path / "gate").touch()
    console.await_status("Completed")
    expect(console.page.get_by_role("heading", name="Of a fox")).to_be_visible()
    expect(console.page.get_by_role("region", name="Artifacts")).to_be_visible()
    assert len(lost) == 2
    watch.expect(AWAY)


def test_a_run_is_cancelled(open_console: OpenConsole, tmp_path: Path) -> None:
    console, _ = open_console("canceller")
    run_id = console.start("story", lines=10, gate=tmp_path / "never")
    console.await_line(5)
    console.page.get_by_role("button", name="Cancel", exact=True).click()
    console.page.get_by_role("dialog").get_by_role("button", name="Cancel the run").click()
    console.await_status("Cancelled")
    assert console.fleet.run(console.user, run_id)["status"] == "cancelled"
    expect(console.page.get_by_text("line 6", exact=True)).to_have_count(0)
    expect(console.page.get_by_role("button", name="Retry")).to_be_visible()
    console.page.get_by_role("link", name="New run like this").click()
    expect(console.page.get_by_label("lines")).to_have_value("10")
    expect(console.page.get_by_label("gate")).to_have_value(str(tmp_path / "never"))


def test_a_number_that_would_be_rounded_is_not_sent(open_console: OpenConsole) -> None:
    console, _ = open_console("counter")
    page = console.page
    page.get_by_role("link", name="New run", exact=True).click()
    page.get_by_role("radio", name="story", exact=True).check()
    page.get_by_label("seed").fill("9007199254740993")
    page.get_by_label("notes").fill('{"at": [1.5, -9007199254740993], "as text": "9007199254740993"}')
    page.get_by_role("button", name="Start the run").click()
    wrong = page.get_by_text("Whole numbers beyond 9,007,199,254,740,991 cannot be sent exactly from here.")
    expect(wrong).to_have_count(2)
    expect(page.get_by_label("seed")).to_be_focused()
    page.get_by_label("seed").fill("-9007199254740991")
    page.get_by_label("notes").fill('{"at": [1.5, 1e21], "as text": "9007199254740993"}')
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url("**/#/runs/*")
    (run,) = console.fleet.http(console.user).get("/v1/runs").json()["items"]
    assert run["input"]["seed"] == -9007199254740991
    assert run["input"]["notes"] == {"at": [1.5, 1e21], "as text": "9007199254740993"}


def test_a_text_that_is_too_long_is_neither_cut_nor_sent(open_console: OpenConsole) -> None:
    console, _ = open_console("writer")
    page = console.page
    page.get_by_role("link", name="New run", exact=True).click()
    page.get_by_role("radio", name="story", exact=True).check()
    title = page.get_by_label("title")
    title.fill("")
    page.keyboard.insert_text("\N{FOX FACE}" * 101)
    expect(page.get_by_text("101 of at most 100 characters", exact=True)).to_be_visible()
    page.get_by_role("button", name="Start the run").click()
    expect(page.get_by_text("title is too long: 101 of at most 100 characters.")).to_be_visible()
    expect(title).to_be_focused()
    assert console.fleet.http(console.user).get("/v1/runs").json()["items"] == []
    page.keyboard.press("Backspace")
    expect(page.get_by_text("100 of at most 100 characters", exact=True)).to_be_visible()
    page.keyboard.press("Enter")
    page.wait_for_url("**/#/runs/*")
    (run,) = console.fleet.http(console.user).get("/v1/runs").json()["items"]
    assert run["input"]["title"] == "\N{FOX FACE}" * 100


def test_an_id_is_copied_or_else_selected(open_console: OpenConsole, fleet: Fleet) -> None:
    console, _ = open_console("copier", permissions=["clipboard-read", "clipboard-write"])
    page = console.page
    run_id = fleet.submit(console.user, "story", {"lines": 2})["id"]
    console.open("runs", run_id)
    page.get_by_role("button", name="Copy the run's id").click()
    expect(page.get_by_text("The id is copied.")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == run_id
    page.get_by_role("button", name="Dismiss").click()
    page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")  # as over plain HTTP
    page.get_by_role("button", name="Copy the run's id").click()
    expect(page.get_by_text("The id is selected")).to_be_visible()
    expect(page.get_by_text("The id is copied.")).to_be_hidden()
    assert page.evaluate("String(getSelection())") == run_id


def test_a_service_that_went_back_is_told_to_the_user_and_to_nobody_else(
    open_console: OpenConsole, tmp_path: Path
) -> None:
    console, _ = open_console("returner", sign_in=False)
    page = console.page
    sockets: list[WebSocketRoute] = []

    def forward(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        server = socket.connect_to_server()

        def say(message: str | bytes) -> None:
            frame = json.loads(message)
            if frame.get("after") is not None:
                frame["after"] += 1_000  # what the client has seen is more than the service knows of
            server.send(json.dumps(frame))

        socket.on_message(say)

    page.route_web_socket("**/v1/stream", forward)
    console.sign_in()
    run_id = console.start("story", lines=4, gate=tmp_path / "gate")
    console.await_line(2)
    sockets[0].close(code=1012)
    notice = page.get_by_role("status", name="Messages").get_by_text("The service has gone back to an earlier state.")
    expect(notice).to_be_visible()
    keep_screenshot(page, "the-service-went-back")
    console.await_live()
    (tmp_path / "gate").touch()
    console.await_status("Completed")
    assert console.told() == console.stored(run_id)
    expect(notice).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    console.user = new_user("next")
    console.sign_in()
    expect(page.get_by_role("status", name="Messages")).to_have_text("")


SAID = """
(status) => {
  window.said = [status.textContent];
  new MutationObserver(() => window.said.push(status.textContent))
    .observe(status, { childList: true, subtree: true, characterData: true });
}
"""


def test_a_lane_that_changes_says_its_figures_once(open_console: OpenConsole, fleet: Fleet, tmp_path: Path) -> None:
    console, _ = open_console("listener")
    figures = console.page.get_by_role("status", name="Slots and queue")
    expect(figures).to_contain_text("0 of 3 slots in use")
    figures.evaluate(SAID)
    run = fleet.submit(console.user, "story", {"lines": 200, "gate": str(tmp_path / "gate")})
    expect(figures).to_contain_text("1 of 3 slots in use")
    expect(console.page.get_by_text("told 100")).to_be_visible()
    (tmp_path / "gate").touch()
    fleet.wait(console.user, run["id"])
    expect(figures).to_contain_text("0 of 3 slots in use")
    said = console.page.evaluate("window.said")
    assert [one for one, other in pairwise(said) if one == other] == []


def test_a_lane_is_right_after_a_snapshot_that_leaves_runs_out(
    open_console: OpenConsole, fleet: Fleet, tmp_path: Path
) -> None:
    console, _ = open_console("crowd", sign_in=False)
    gates = [str(tmp_path / name) for name in ("fox", "hen", "cat", "dog")]  # what rows show of an input
    runs = [fleet.submit(console.user, "story", {"lines": 2, "gate": gate}) for gate in gates]
    for run in runs[:3]:
        fleet.event(console.user, run["id"], "agent_progress")

    def forward(socket: WebSocketRoute) -> None:
        server = socket.connect_to_server()

        def hear(message: str | bytes) -> None:
            frame = json.loads(message)
            if frame["t"] == "welcome":  # as of so many and so large runs that not all of them fit
                left = [{**run, "input": None} for run in frame["snapshot"]["runs"] if run["id"] == runs[0]["id"]]
                frame["snapshot"] = {"runs": left, "more": True}
            socket.send(json.dumps(frame))

        server.on_message(hear)

    console.page.route_web_socket("**/v1/stream", forward)
    console.sign_in()
    tracks = console.page.get_by_role("list", name="Slots").get_by_role("listitem")
    expect(tracks.locator(".title")).to_have_text(gates[:3])
    expect(tracks.get_by_text("free", exact=True)).to_have_count(0)
    places = console.page.get_by_role("list", name="Queue").get_by_role("listitem")
    expect(places.locator(".title")).to_have_text(gates[3:])
    for run, gate in zip(runs, gates, strict=True):
        Path(gate).touch()
        fleet.wait(console.user, run["id"])
    expect(tracks.get_by_text("free", exact=True)).to_have_count(3)


def write_story(console: Console) -> None:
    """Begins to write what is to be submitted: also what could not be sent yet."""
    console.page.get_by_role("link", name="New run", exact=True).click()
    console.page.get_by_role("radio", name="story", exact=True).check()
    console.page.get_by_label("title").fill("Half a ti")
    console.page.get_by_label("notes").fill('{"half": ')


def expire(console: Console) -> None:
    """Has the service refuse the token of the page, and with it the next call."""
    console.page.evaluate("sessionStorage.setItem('lanewise.token', 'expired')")
    console.page.reload()
    expect(console.page.get_by_role("alert")).to_contain_text("token")


def enter(console: Console, user: str) -> None:
    """Signs in where the page is."""
    console.page.get_by_label("Access token").fill(console.fleet.token(user))
    console.page.get_by_role("button", name="Sign in").click()
    settle(console.page)


def test_what_was_written_is_there_after_signing_in_again(open_console: OpenConsole) -> None:
    console, watch = open_console("interrupted")
    page = console.page
    write_story(console)
    expire(console)
    enter(console, console.user)
    expect(page.get_by_role("radio", name="story", exact=True)).to_be_checked()
    expect(page.get_by_label("notes")).to_have_value('{"half": ')
    expect(page.get_by_label("title")).to_have_value("Half a ti")
    expect(page.get_by_text("9 of at most 100 characters")).to_be_visible()
    page.get_by_label("notes").fill("")
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url("**/#/runs/*")
    page.get_by_role("link", name="New run", exact=True).click()
    expect(page.get_by_role("radio", name="supervisor")).to_be_checked()  # what was sent is no draft
    watch.expect("401")  # so the browser says, too


@pytest.mark.parametrize("signs_out", [True, False], ids=["after signing out", "by another user"])
def test_what_was_written_is_not_shown(open_console: OpenConsole, *, signs_out: bool) -> None:
    console, watch = open_console("author")
    write_story(console)
    if signs_out:
        console.page.get_by_role("button", name="Sign out").click()
    else:
        expire(console)
    enter(console, console.user if signs_out else new_user("other"))
    expect(console.page.get_by_role("radio", name="supervisor")).to_be_checked()
    assert "Half a ti" not in console.page.evaluate("JSON.stringify(sessionStorage)")
    watch.expect("401")


def test_two_users_see_nothing_of_each_other(open_console: OpenConsole, tmp_path: Path) -> None:
    opened = [open_console(name) for name in ("alice", "bob")]
    consoles = [console for console, _ in opened]
    titles = ["a secret of alice", "a secret of bob"]
    runs = [
        console.start("story", lines=4, title=title, gate=tmp_path / "gate")
        for console, title in zip(consoles, titles, strict=True)
    ]
    for console in consoles:
        console.await_line(2)
    (tmp_path / "gate").touch()
    for console in consoles:
        console.await_status("Completed")
    for console, own, foreign, others_run in zip(consoles, titles, titles[::-1], runs[::-1], strict=True):
        expect(console.page.get_by_role("heading", name=own)).to_be_visible()
        for place in ([], ["runs"], ["threads"], ["documents"]):
            console.open(*place)
            settle(console.page)
            seen = console.page.content()
            assert foreign not in seen
            assert others_run not in seen
        console.open("runs", others_run)
        expect(console.page.get_by_text("There is no such run.")).to_be_visible()
    for _, watch in opened:
        watch.expect("404")  # so the browser says, too


def settle(page: Page) -> None:
    """Waits until a page has read what it shows."""
    expect(page.locator("[aria-busy]")).to_have_count(0)


class Inspection:
    """Looks at pages for canaries: each must be seen somewhere, as text, and none may do anything."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.page = console.page
        self.page.add_init_script("window.ran = []")
        self.seen: set[str] = set()

    def look(self) -> None:
        """Looks at what the page shows."""
        settle(self.page)
        assert self.page.evaluate("window.ran") == []
        assert self.page.locator("[data-canary]").evaluate_all("(found) => found.map((one) => one.outerHTML)") == []
        links = self.page.locator("a[href]").evaluate_all("(found) => found.map((link) => link.protocol)")
        assert set(links) <= {"http:", "https:", "blob:"}
        self.seen |= set(re.findall(r"canary-([a-z-]+)", self.page.content()))

    def visit(self, *place: str) -> None:
        self.console.open(*place)
        self.look()

    def view(self, button: str) -> None:
        """Opens a file in its dialog, looks, closes it."""
        self.page.get_by_role("button", name=button, exact=True).first.click()
        expect(self.page.get_by_role("dialog")).to_be_visible()
        self.look()
        self.page.keyboard.press("Escape")
        expect(self.page.get_by_role("dialog")).to_have_count(0)


DOCUMENT = f"{short_canary('document-name')}.md"
TEXTS = {
    "thinking", "progress", "token", "retry", "tool-error", "tool-name", "artifact-markdown", "artifact-html",
    "artifact-json", "error-type", "error-message", "answer", "passage", "column", "row", "deep", "chart-title", "key",
    "value", "heading", "paragraph", "bold", "code", "item", "quote", "fence", "cell", "link", "case", "data", "image",
    "pixel", "label", "html-block", "citation", "agent-description", "field-description", "field-example",
    "document-name", "document-text", "input", "metadata", "thread",
}  # fmt: skip


def submit_canaries(fleet: Fleet, user: str, gate: Path) -> list[Run]:
    """Writes a canary into everything that a user can write, and has agents do the same."""
    http = fleet.http(user)
    markdown = {"Content-Type": "text/markdown"}
    http.put(f"/v1/documents/{quote(DOCUMENT)}", content=canary("document-text"), headers=markdown).raise_for_status()
    thread = http.post(
        "/v1/threads", json={"title": canary("thread"), "metadata": {"k": canary("thread-metadata")}}
    ).json()
    given = {"thread_id": thread["id"], "metadata": {canary("metadata-key"): canary("metadata")}}
    return [
        fleet.submit(user, "inject", {"text": canary("input"), "kind": kind, "gate": str(gate)}, **given)
        for kind in ("markdown", "parts", "error")
    ]


def test_nothing_that_users_and_agents_write_is_more_than_text(
    open_console: OpenConsole, fleet: Fleet, tmp_path: Path
) -> None:
    console, _ = open_console("mallory")
    inspection = Inspection(console)
    console.page.reload()
    console.await_live()
    gate = tmp_path / "gate"
    runs = submit_canaries(fleet, console.user, gate)
    expect(console.page.get_by_role("list", name="Slots").get_by_text("canary-progress").first).to_be_visible()
    inspection.visit()
    keep_screenshot(console.page, "canaries-in-the-lane")
    gate.touch()
    for run in runs:
        fleet.wait(console.user, run["id"], None)
        inspection.visit("runs", run["id"])
        for name in ("canary.md", "canary.html", "canary.json", "canary.svg"):
            inspection.view(name)
        console.page.mouse.move(400, 300)
        keep_screenshot(console.page, f"canaries-in-a-run-{run['input']['kind']}")
    for place in ([], ["runs"], ["threads"], ["documents"]):
        inspection.visit(*place)
    inspection.view(DOCUMENT)
    console.open("new")
    console.page.get_by_role("radio", name="inject", exact=True).check()
    inspection.look()
    assert TEXTS - inspection.seen == set()


def tab_to(page: Page, role: str, name: str) -> None:
    """Presses Tab until a control has the focus, which must then be seen."""
    wanted = page.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
    for _ in range(MAX_TABS):
        page.keyboard.press("Tab")
        if wanted.evaluate("(control) => control === document.activeElement"):
            outline = wanted.evaluate("(control) => getComputedStyle(control).outlineStyle")
            assert outline != "none", f"nobody sees that {name} has the focus"
            return
    pytest.fail(f"Tab does not lead to the {role} {name}")


def test_the_keyboard_is_enough(open_console: OpenConsole, tmp_path: Path) -> None:
    console, _ = open_console("keyboarder", sign_in=False)
    page = console.page
    console.open()
    expect(page.get_by_label("Access token")).to_be_focused()
    page.keyboard.type(console.fleet.token(console.user))
    page.keyboard.press("Enter")
    console.await_live()
    tab_to(page, "link", "New run")
    page.keyboard.press("Enter")
    settle(page)
    expect(page.get_by_role("radio", name="supervisor")).to_be_checked()
    tab_to(page, "radio", "supervisor")
    for _ in range(MAX_TABS):
        if page.get_by_role("radio", name="story", exact=True).is_checked():
            break
        page.keyboard.press("ArrowDown")
    for role, label, text in (
        ("textbox", "gate optional", str(tmp_path / "never")),
        ("spinbutton", "lines optional", "6"),
        ("textbox", "title optional", "By keys"),
    ):
        tab_to(page, role, label)
        page.keyboard.press("Control+a")
        page.keyboard.type(text)
    page.keyboard.press("Enter")
    console.await_line(3)
    tab_to(page, "button", "Cancel")
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_role("button", name="Keep")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    console.await_status("Cancelled")


def test_on_a_phone_nothing_is_wider_than_the_screen(open_console: OpenConsole, fleet: Fleet) -> None:
    console, _ = open_console("phone", sign_in=False, **PHONE)
    console.open()
    assert_fits(console.page, "sign-in")
    console.sign_in()
    fleet.client(console.user).put_document(
        "a-document-with-quite-a-long-name-that-has-no-spaces-in-it.csv", "a,b\n1,2\n"
    )
    long = json.dumps({"word": "w" * 300})
    runs = [
        fleet.submit(console.user, "talk", {"text": long}),
        fleet.submit(console.user, "story", {"lines": 3}),
        fleet.submit(console.user, "inject", {"text": "a chart", "kind": "parts"}),
    ]
    for run in runs:
        fleet.wait(console.user, run["id"])
    for name, place in {
        "lane": [], "new": ["new"], "history": ["runs"], "threads": ["threads"], "documents": ["documents"],
        "words": ["runs", runs[0]["id"]], "story": ["runs", runs[1]["id"]],
        "chart": ["runs", runs[2]["id"]],
    }.items():  # fmt: skip
        console.open(*place)
        settle(console.page)
        assert_fits(console.page, name)
    expect(console.page.get_by_role("img", name="canary-chart-title")).to_be_visible()


def assert_fits(page: Page, name: str) -> None:
    """Demands that neither a page nor a picture on it need be scrolled sideways; keeps what it looks like."""
    keep_screenshot(page, f"phone-{name}")
    width, visible = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
    assert width <= visible, f"{name} is {width} pixels wide, {visible} can be seen"
    wide = page.locator("img").evaluate_all(
        "(found) => found.filter((one) => one.offsetWidth > one.parentElement.clientWidth).map((one) => one.alt)"
    )
    assert wide == [], f"{name} has pictures that are cut off"


CONTRASTS = """
() => {
  const channel = (value) => (value / 255 <= 0.04045 ? value / 255 / 12.92 : ((value / 255 + 0.055) / 1.055) ** 2.4);
  const luminance = ([red, green, blue]) => 0.2126 * channel(red) + 0.7152 * channel(green) + 0.0722 * channel(blue);
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const over = (colours) => {  // what is seen when they lie on one another
    for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const found = [];
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = texts.nextNode(); node; node = texts.nextNode()) {
    const element = node.parentElement;
    const shown = element.checkVisibility({ visibilityProperty: true }) && !element.closest(":disabled");
    if (!shown || !node.data.trim()) continue;
    const behind = [];
    for (let one = element; one; one = one.parentElement) behind.unshift(getComputedStyle(one).backgroundColor);
    const back = luminance(over(["white", ...behind])), text = luminance(over([getComputedStyle(element).color]));
    found.push([(Math.max(back, text) + 0.05) / (Math.min(back, text) + 0.05), node.data.trim().slice(0, 40)]);
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_in_light_and_dark(open_console: OpenConsole, fleet: Fleet, scheme: str) -> None:
    console, _ = open_console("reader", color_scheme=scheme)
    run = fleet.submit(console.user, "story", {"lines": 8})
    fleet.wait(console.user, run["id"])
    background = console.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in re.findall(r"\d+", background)[:3]) > 3 * 128) == (scheme == "light")
    for name, place in {"lane": [], "new": ["new"], "run": ["runs", run["id"]]}.items():
        console.open(*place)
        settle(console.page)
        keep_screenshot(console.page, f"{scheme}-{name}")
        contrasts = console.page.evaluate(CONTRASTS)
        assert contrasts
        assert [(text, round(ratio, 1)) for ratio, text in contrasts if ratio < 4.5] == []
