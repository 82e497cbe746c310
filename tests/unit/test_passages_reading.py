"""Text out of files: each format, and files that were made to do harm."""

from __future__ import annotations

import time

import pytest

from tests.pdfs import a_bomb, a_pdf, pdf_of_streams
from worker.tools.passages import pdf, reading
from worker.tools.passages.text import MAX_CHARACTERS, DocumentError, Heading, Text


def read(name: str, content: bytes | str, content_type: str = "application/octet-stream") -> Text:
    return reading.read(name, content_type, content.encode() if isinstance(content, str) else content)


def titles(text: Text) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in text.headings]


MARKDOWN = """\
Title
=====
Words.

## Part *one* ##
```sh
# no heading
```
Two
---
- item
---
#no heading
### \n"""


def test_markdown_is_its_source_with_headings_outside_of_code() -> None:
    text = read("a.md", MARKDOWN)
    assert text.content == MARKDOWN
    assert titles(text) == [(1, "Title"), (2, "Part *one"), (2, "Two")]
    assert [MARKDOWN[heading.start :][:4] for heading in text.headings] == ["Titl", "## P", "Two\n"]


def test_plain_text_has_the_headings_that_are_underlined_in_full() -> None:
    text = read("a.txt", "Top\n***\n\nSub one\n-------\nwords\n----\n\nNot this\n---\n  indented\n----------\n")
    assert titles(text) == [(1, "Top"), (2, "Sub one")]


@pytest.mark.parametrize(
    ("content", "declared", "expected"),
    [
        ("größe".encode(), "text/plain", "größe"),
        ("größe".encode("latin-1"), "text/plain; charset=iso-8859-1", "größe"),
        ("größe".encode("utf-16"), "text/plain", "größe"),
        ("größe".encode("utf-32"), "text/plain", "größe"),
        ("\ufeffgröße".encode(), "text/plain; charset=latin-1", "\ufeffgröße"),
        ("größe".encode(), "text/plain; charset=none-such", "größe"),
        ("größe".encode(), "text/plain; charset=utf-7", "größe"),
    ],
)
def test_encodings(content: bytes, declared: str, expected: str) -> None:
    text = read("a.txt", content, declared)
    assert (text.content, text.notes) == (expected, ())


def test_an_unknown_encoding_is_guessed_and_noted() -> None:
    text = read("a.txt", "größe “x”".encode("cp1252"))
    assert text.content == "größe “x”"
    assert "read as Windows-1252" in text.notes[0]


def test_a_wrong_encoding_is_no_reason_to_fail() -> None:
    assert read("a.txt", b"\xff\xfe\x00\xd8x", "text/plain").content


def test_single_nul_bytes_are_replaced_where_they_stand() -> None:
    content = "x" * 200 + "\0" + "y" * 200
    assert read("a.txt", content).content == content.replace("\0", "\ufffd")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("one \x1b word", "one   word"),
        ("one\x9bword\x7f", "one word "),
        ("\x1b[31mred\x1b[0m " * 100, " [31mred [0m " * 100),
        ("bell\x07 " * 8, "bell  " * 8),
        ("tab\tline\r\npage\f", "tab\tline\r\npage\f"),
    ],
)
def test_control_characters_are_spaces(content: str, expected: str) -> None:
    assert read("a.txt", content) == Text(expected)


@pytest.mark.parametrize("content", [b"one\0word", b"bell\x07 " * 9, b"\x01" * 9 + b"x" * 100])
def test_a_nul_in_little_text_or_many_control_characters_are_binary(content: bytes) -> None:
    with pytest.raises(DocumentError, match="is binary, not text"):
        read("a.txt", content)


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html", "a"])
def test_binary_is_refused(name: str) -> None:
    with pytest.raises(DocumentError, match="is binary, not text"):
        read(name, bytes(range(256)) * 100)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.JSONL"])
def test_tables_are_for_another_agent(name: str) -> None:
    with pytest.raises(DocumentError, match="is a table: ask the data agent"):
        read(name, "a,b\n1,2\n")


def test_what_a_file_is_called_decides_before_its_content_type_does() -> None:
    assert reading.kind_of("a.md", "text/html") == "markdown"
    assert reading.kind_of("page", "text/html; charset=utf-8") == "html"
    assert reading.kind_of("page.2", "text/plain") == "text"


@pytest.mark.parametrize("name", ["a.txt", "a.md", "a.html"])
def test_an_empty_file_has_no_text(name: str) -> None:
    assert read(name, b"") == Text("")


PAGE = """<!doctype html><html><head><title>My  page</title><style>p {}</style></head><body>
<h1>One <b>and</b> only</h1><p>Some  <i>it</i>alic
 text.<br>Next line.</p><script>bad("x")</script><!-- no -->
<pre>  as
   it is</pre><ul><li>first<li>second</ul><table><tr><td>1<td>2</table><h2>Sub</h2>&lt;end&gt; &amp; &eacute;"""


def test_html_is_what_its_reader_sees() -> None:
    text = read("a.html", PAGE)
    assert text.content == (
        "One and only\n\nSome italic text.\nNext line.\n\n  as\n   it is\n\nfirst\nsecond\n\n1 2\n\nSub\n\n<end> & é"
    )
    assert text.headings == (Heading(0, 0, "My page"), Heading(0, 1, "One and only"), Heading(78, 2, "Sub"))
    assert text.content[78:].startswith("Sub")


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("<p hidden>a<p>b", "b"),
        ("<div hidden><p>a<br>b<img><ul><li>c</ul></div>d", "d"),
        ("a <span style='color: red; DISPLAY : none !important'>b<i>c</i></span>d", "a d"),
        ("<p style='display: nonesuch'>a", "a"),
        ("<div hidden></p></span>a</div>b", "b"),
        ("<div hidden><script>a</div></script>b</div>c", "c"),
        ("<script>a</script>b<svg><path/><g></g></svg>c", "bc"),
        ("<img hidden><br hidden>a", "a"),
        ("<div hidden><title>a</title><h1>b</h1></div>c", "c"),
    ],
)
def test_hidden_elements_are_left_out_with_all_that_is_in_them(page: str, expected: str) -> None:
    assert read("a.html", page) == Text(expected)


@pytest.mark.parametrize(
    ("content", "declared"),
    [
        ("<meta charset='latin-1'><p>größe".encode("latin-1"), "text/html"),
        ("<meta charset='latin-1'><p>größe".encode(), "text/html; charset=utf-8"),
        ("<p>größe".encode(), "text/html"),
    ],
)
def test_html_tells_its_encoding_in_three_places(content: bytes, declared: str) -> None:
    assert read("a.html", content, declared).content == "größe"


HOSTILE = {
    "nested": "<div>" * 300_000 + "x",
    "never closed": "<p>hello <b>world " * 50_000,
    "formatted": "<b><i><u>" * 30_000 + "<p>x" * 1_000,
    "attributes": "<a " + "x='1' " * 200_000 + ">x",
    "comments": "x<!--" * 200_000,
    "declarations": "x" + "<!" * 200_000,
    "instructions": "x" + "<?" * 200_000,
    "end tags": "x" + "</" * 200_000,
    "entities": "&amp" * 200_000,
    "hidden": "x" + "<script>" * 100_000,
    "headings": "<h1>" * 100_000 + "x",
    "nul": "<p>x\0y" * 100 + " and much more text around it" * 1_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_html_is_read_in_little_time(name: str) -> None:
    started = time.process_time()
    text = read("a.html", HOSTILE[name])
    assert time.process_time() - started < 5
    assert len(text.content) <= len(HOSTILE[name]) + 10
    assert "\0" not in text.content


MEASURED = {
    "dots": ("a.txt", "." * 2_000_000),
    "lines": ("a.md", "\n" * 2_000_000),
    "spaces": ("a.txt", "\n" + " " * 2_000_000 + "x"),
    "hashes": ("a.md", "# " + "#" * 2_000_000 + "x"),
    "rules": ("a.txt", "x\n" + "=" * 2_000_000 + "x"),
    "quotes": ("a.txt", "a." + '"' * 2_000_000),
}


@pytest.mark.parametrize("name", MEASURED)
def test_odd_text_is_read_and_split_in_little_time(name: str) -> None:
    from worker.tools.passages.splitting import split  # noqa: PLC0415 - what follows reading, in this test only

    started = time.process_time()
    assert list(split(read(*MEASURED[name]))) is not None
    assert time.process_time() - started < 5


@pytest.mark.parametrize(("name", "unit"), [("a.txt", "word "), ("a.html", "word <b>two</b> ")])
def test_too_long_a_text_is_cut_and_says_so(name: str, unit: str) -> None:
    text = read(name, unit * (MAX_CHARACTERS // len("word ") + 1000))
    assert MAX_CHARACTERS <= len(text.content) < MAX_CHARACTERS + 100
    assert f"only the first {MAX_CHARACTERS:,}" in text.notes[0]


def test_pdf_has_its_text_by_page() -> None:
    text = read("a.pdf", a_pdf("First page.\nSecond line.", "", "Third page."))
    assert text.content == "First page.\nSecond line.\n\n\n\nThird page.\n\n"
    assert text.pages == (0, 26, 28)
    assert text.notes == ()


def test_pdf_is_known_by_its_first_bytes() -> None:
    assert read("scan", a_pdf("words")).content.strip() == "words"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"%PDF-1.7\n" + b"garbage " * 1000, "is not a PDF that can be read"),
        (a_pdf("some words")[:300], "is not a PDF that can be read"),
        (b"%PDF-", "is not a PDF that can be read"),
        (b"", "is not a PDF that can be read"),
        (pdf_of_streams(b"", b""), "has no text: it may be scanned pictures"),
        (pdf_of_streams(b"BT (x) Tj ET", password="p"), "is encrypted: upload it without a password"),
    ],
)
def test_a_pdf_without_readable_text_says_why(content: bytes, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        read("a.pdf", content)


def test_one_bomb_of_a_page_is_left_out_and_noted() -> None:
    content = pdf_of_streams(b"BT /F1 12 Tf 72 720 Td (good) Tj ET", a_bomb(40_000_000))
    assert len(content) < 1_000_000
    started = time.process_time()
    text = read("a.pdf", content)
    assert time.process_time() - started < 5
    assert text.content.strip() == "good"
    assert "1 of 2 pages could not be read, the first is page 2: LimitReachedError" in text.notes[0]


def test_too_many_pages_are_cut_and_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "MAX_PAGES", 2)
    text = read("a.pdf", a_pdf("one", "two", "three"))
    assert (text.content.split(), text.notes) == (["one", "two"], ("only the first 2 of 3 pages were read",))


def test_pages_that_take_too_long_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pdf, "TIME_S", 0.0)
    with pytest.raises(DocumentError, match="only the first 0 of 2 pages were read"):
        read("a.pdf", a_pdf("one", "two"))
