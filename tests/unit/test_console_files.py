"""The console's files as they lie in the repository: none makes markup of text, none asks anybody else."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "api" / "console"
FILES = sorted(FOLDER.iterdir())
SCRIPTS = [path for path in FILES if path.suffix == ".js"]
# What takes markup, or code, from text. `trusted-types 'none'` has browsers that know it refuse them; others do not.
SINKS = re.compile(
    r"innerHTML|outerHTML|insertAdjacentHTML|setHTMLUnsafe|srcdoc|document\.write|createContextualFragment|DOMParser"
    r"|\beval\b|new Function|importScripts|\bimport\(|setTimeout\(\s*[\"'`]"
)
KEPT = re.compile(r"localStorage|indexedDB|document\.cookie")
# A namespace is a name that looks like an address; nobody is asked for it.
ADDRESS = re.compile(r"(?:https?:)?//(?!www\.w3\.org/2000/svg)[a-zA-Z0-9-]+\.[a-z]|\burl\(|@import")


class Page(HTMLParser):
    """What a page holds besides text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]


def code(path: Path) -> str:
    """Returns a script without its comments, which may name what the code must not."""
    return re.sub(r"/\*.*?\*/|(?<![:\"'`])//[^\n]*", "", path.read_text(), flags=re.DOTALL)


def imports(path: Path) -> set[str]:
    return set(re.findall(r'^import [^;]* from "([^"]+)";', path.read_text(), re.MULTILINE))


def test_there_is_something_to_look_at() -> None:
    assert {path.suffix for path in FILES} == {".css", ".html", ".js", ".svg"}
    assert len(SCRIPTS) > 15


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_no_script_makes_markup_or_code_of_text_or_keeps_anything_for_good(path: Path) -> None:
    assert SINKS.findall(code(path)) == []
    assert KEPT.findall(code(path)) == []


def test_a_token_is_kept_by_one_file_and_never_in_an_address() -> None:
    keepers = {path.name for path in SCRIPTS if "sessionStorage" in code(path)}
    assert keepers == {"draft.js", "session.js"}
    assert "token" not in code(FOLDER / "draft.js")
    assert [path.name for path in SCRIPTS if re.search(r"[?&](access_)?token=", code(path))] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_file_names_another_site(path: Path) -> None:
    assert ADDRESS.findall(code(path)) == []


def test_the_page_has_no_script_or_style_of_its_own() -> None:
    page = Page((FOLDER / "index.html").read_text())
    assert "style" not in page.tags
    assert page.tags.count("script") == 1
    assert ("script", "src", "/console/main.js") in page.attributes
    assert [(tag, name) for tag, name, _ in page.attributes if name.startswith("on") or name == "style"] == []
    assert ("html", "lang", "en") in page.attributes


def test_what_a_page_or_module_asks_for_is_there() -> None:
    there = {path.name for path in FILES}
    page = Page((FOLDER / "index.html").read_text())
    asked = {value for _, name, value in page.attributes if name in {"src", "href"} and value != "/docs"}
    assert {value.removeprefix("/console/") for value in asked} <= there
    reached, ahead = set[str](), {"main.js"}
    while ahead:
        name = ahead.pop()
        reached.add(name)
        ahead |= {found.removeprefix("./") for found in imports(FOLDER / name)} - reached
    assert reached == {path.name for path in SCRIPTS}  # no file is missing, and none is left over


def test_modules_are_small() -> None:
    longest = {path.name: len(path.read_text().splitlines()) for path in SCRIPTS if path.name != "lanewise.js"}
    assert {name: lines for name, lines in longest.items() if lines > 300} == {}
