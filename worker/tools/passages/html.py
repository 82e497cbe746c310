"""Text out of HTML, as a stream: no tree is built, so that no nesting is too deep."""

from __future__ import annotations

import re
from collections.abc import Mapping

from worker.tools.passages.markup import MAX_TITLE
from worker.tools.passages.text import MAX_CHARACTERS, Heading, Text, decode

_CHUNK = 64 * 1024
_HIDDEN = frozenset({"script", "style", "template", "noscript", "svg", "object", "select", "textarea"})
_BLOCKS = frozenset({
    "address", "article", "aside", "blockquote", "body", "br", "caption", "dd", "details", "dialog", "div", "dl",
    "dt", "fieldset", "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr",
    "html", "li", "main", "nav", "ol", "p", "pre", "section", "summary", "table", "tbody", "tfoot", "thead", "title",
    "tr", "ul",
})  # fmt: skip
# They have no end tag: nothing can be hidden in them.
_VOID = frozenset({
    "area", "base", "br", "col", "embed", "frame", "hr", "img", "input", "link", "meta", "param", "source", "track",
    "wbr",
})  # fmt: skip
_NOT_DISPLAYED = re.compile(r"(?:^|;)\s*display\s*:\s*none\b", re.IGNORECASE)
_PARAGRAPHS = _BLOCKS - {"br", "dt", "li", "tr"}
_SPACE = re.compile(r"\s+")
_META_BYTES = 2048


def read_html(content: bytes, content_type: str) -> Text:
    """Returns the text that a reader of the page sees; paragraphs are apart, headings known.

    Raises:
        DocumentError: it is no text at all.
    """
    from lxml import etree  # noqa: PLC0415 - 4 MiB in every worker for the few documents that need it

    declared = f"{content_type} {content[:_META_BYTES].decode('ascii', 'ignore')}"
    source, notes = decode(content, declared, limit=len(content))
    target = _Target()
    parser = etree.HTMLParser(target=target, encoding="utf-8")
    try:
        for start in range(0, len(source), _CHUNK):
            parser.feed(source[start : start + _CHUNK].encode())
        parser.close()
    except (etree.LxmlError, AssertionError) as error:
        if source.strip():
            notes.append(f"the page is broken: {str(error)[:100]}")
    return target.finish(notes)


class _Target:
    """Gathers text from the parser's events."""

    def __init__(self) -> None:
        self.length = 0
        self._parts: list[str] = []
        self._hidden = 0
        self._preformatted = 0
        self._break = ""
        self._headings: list[Heading] = []
        self._heading: tuple[int, int, list[str]] | None = None
        self._title: list[str] | None = None
        self._page_title = ""
        self._is_cut = False

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        if tag not in _VOID and (self._hidden or tag in _HIDDEN or _is_hidden(attributes)):
            self._hidden += 1  # and all that is in it
        elif tag == "title" and not self._page_title:
            self._title = []
        if tag == "pre":
            self._preformatted += 1
        self._at_edge(tag)
        if tag in {"td", "th"}:
            self._break = self._break or " "
        if len(tag) == 2 and tag[0] == "h" and tag[1].isdigit():  # noqa: PLR2004 - h1 to h6
            self._heading = (int(tag[1]), -1, [])

    def end(self, tag: str) -> None:
        if self._hidden and tag not in _VOID:
            self._hidden -= 1
        elif tag == "title" and self._title is not None:
            self._page_title, self._title = _line(self._title), None
        if tag == "pre":
            self._preformatted = max(0, self._preformatted - 1)
        self._at_edge(tag)
        if self._heading is not None and tag == f"h{self._heading[0]}":
            level, start, parts = self._heading
            if start >= 0 and (title := _line(parts)):
                self._headings.append(Heading(start, level, title))
            self._heading = None

    def data(self, text: str) -> None:
        if self._title is not None:
            self._title.append(text)
        elif not self._hidden:
            self._add(text if self._preformatted else _SPACE.sub(" ", text))

    def comment(self, text: str) -> None:
        del text

    def close(self) -> None:
        pass

    def finish(self, notes: list[str]) -> Text:
        if self._is_cut:
            notes = [*notes, f"only the first {MAX_CHARACTERS:,} characters were read"]
        title = [Heading(0, 0, self._page_title)] if self._page_title else []
        return Text("".join(self._parts), (*title, *self._headings), (), tuple(notes))

    def _at_edge(self, tag: str) -> None:
        if tag in _BLOCKS:
            self._break = "\n\n" if tag in _PARAGRAPHS or self._break == "\n\n" else "\n"

    def _add(self, text: str) -> None:
        if self.length + len(text) > MAX_CHARACTERS:
            self._is_cut = True
            text = text[: MAX_CHARACTERS - self.length]
        if self._break or not self._parts:
            if not text.strip():
                return
            text = text.lstrip("\n" if self._preformatted else None)
            gap = self._break if self._parts else ""
            self._break = ""
            self._append(gap)
        elif text[:1] == " " and self._parts[-1][-1:] == " ":
            text = text[1:]
        if self._heading is not None:
            level, start, parts = self._heading
            parts.append(text)
            self._heading = (level, self.length if start < 0 else start, parts)
        self._append(text)

    def _append(self, text: str) -> None:
        if text:
            self._parts.append(text)
            self.length += len(text)


def _is_hidden(attributes: Mapping[str, str]) -> bool:
    return "hidden" in attributes or _NOT_DISPLAYED.search(attributes.get("style", "")) is not None


def _line(parts: list[str]) -> str:
    return " ".join("".join(parts).split())[:MAX_TITLE]
