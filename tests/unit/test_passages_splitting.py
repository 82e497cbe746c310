"""Passages: where they are cut, and that they are the text, exactly, in order, all of it."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.tools.passages import reading
from worker.tools.passages.splitting import AIM, MAX, Piece, sentences, split
from worker.tools.passages.text import Heading, Text

# Made of what the cutting looks at: words, ends of sentences, blank lines, headings, items, odd space.
SCRAPS = st.sampled_from(
    ["word ", "Word", ". ", "! ", "? ", ".", "e.g. ", "\n", "\n\n", "# Top\n", "## Sub\n", "===\n", "- item\n",
     "1. one\n", "\r\n", "\t", "\ufeff", "\u00a0", "日本語。", "```\n", "x" * 300, "word " * 200,
     "Long words. " * 50, "\x0c", "\u2028"]
)  # fmt: skip
SOURCES = st.lists(SCRAPS, max_size=60).map("".join)


def passages(text: Text) -> list[str]:
    return [text.content[piece.start : piece.end] for piece in split(text)]


def bare(content: str) -> str:
    return "".join(char for char in content if not char.isspace() and char != "\ufeff")


@given(source=SOURCES | st.text(max_size=3000), name=st.sampled_from(["a.md", "a.txt"]))
def test_passages_are_the_text_in_order_and_all_of_it(source: str, name: str) -> None:
    raw = source.encode("utf-8", "replace")
    decoded = raw.decode()
    if any(unicodedata.category(char) == "Cc" for char in decoded if char not in "\t\n\r\f\v"):
        return  # refused as binary, or replaced: see the tests of reading
    text = reading.read(name, "text/plain", raw)
    assert text.content == decoded
    pieces = list(split(text))
    assert [piece.number for piece in pieces] == list(range(1, len(pieces) + 1))
    assert bare("".join(passages(text))) == bare(decoded)
    ends = [0, *(piece.end for piece in pieces)]
    for before, piece in zip(ends, pieces, strict=False):
        assert before <= piece.start < piece.end <= len(decoded)
        assert piece.end - piece.start <= MAX
        quote = decoded[piece.start : piece.end]
        assert quote == quote.strip()


@given(source=SOURCES)
def test_html_and_its_text_hold_together(source: str) -> None:
    text = reading.read("a.html", "text/html", f"<h1>T</h1><p>{source}<h2>x</h2><pre>{source}".encode())
    assert bare("".join(passages(text))) == bare(text.content)
    for heading in text.headings:
        assert "".join(text.content[heading.start :].split()).startswith("".join(heading.title.split()))


@given(content=st.text(alphabet="ab .!?\n-'\"A1", max_size=400))
def test_sentences_are_the_text_without_the_space_between(content: str) -> None:
    spans = list(sentences(content, 0, len(content)))
    assert bare("".join(content[start:end] for start, end in spans)) == bare(content)
    assert all(start < end for start, end in spans)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("One is here. Two is there! Three?", 3),
        ("See e.g. Section 4 of it. Then go on.", 2),
        ("Ask Dr. Smith, i.e. Anna B. Smith. She knows.", 2),
        ("It costs 3.50 a day. That is all.", 2),
        ('He said "Go." Then he went.', 2),
        ("first line\n- item one\n- item two\n2. and last", 4),
        ("日本語です。次の文。", 2),
        ("lower case. goes on after it", 1),
    ],
)
def test_sentences_end_where_a_reader_ends_them(content: str, expected: int) -> None:
    assert len(list(sentences(content, 0, len(content)))) == expected


def test_a_heading_begins_a_passage_and_names_its_path() -> None:
    text = reading.read(
        "a.md", "", b"Intro.\n\n# Rules\n\n## Hours\n\nNine to five.\n\n## Pay\n\nMonthly.\n\n# End\n\nBye."
    )
    assert [(piece.heading, text.content[piece.start : piece.end].split("\n")[0]) for piece in split(text)] == [
        ("", "Intro."), ("Rules", "# Rules"), ("Rules > Hours", "## Hours"), ("Rules > Pay", "## Pay"),
        ("End", "# End"),
    ]  # fmt: skip


def test_paragraphs_are_put_together_and_never_torn_without_need() -> None:
    paragraph = "Words of a paragraph, quite a few. " * 10
    text = Text("\n\n".join([paragraph.strip()] * 5))
    lengths = [len(passage) for passage in passages(text)]
    assert all(passage.startswith("Words") and passage.endswith("few.") for passage in passages(text))
    assert max(lengths) <= AIM
    assert len(lengths) == 3


def test_a_long_paragraph_is_cut_between_sentences_and_a_long_sentence_between_words() -> None:
    first = "This is a sentence of some length. " * 60
    assert all(passage.endswith("length.") for passage in passages(Text(first)))
    second = "word " * 1000
    assert all(set(passage.split()) == {"word"} for passage in passages(Text(second)))
    assert [len(passage) for passage in passages(Text("x" * 2500))] == [1000, 1000, 500]


def test_passages_know_their_page_and_do_not_cross_it() -> None:
    text = Text("One.\n\nTwo.\n\nThree.\n\n", (), (0, 6, 12))
    assert list(split(text)) == [Piece(1, 0, 4, "", 1), Piece(2, 6, 10, "", 2), Piece(3, 12, 18, "", 3)]


def test_headings_of_levels_that_are_left_out_make_no_path_of_their_own() -> None:
    text = Text("abcd", (Heading(0, 1, "A"), Heading(1, 3, "B"), Heading(2, 2, "C"), Heading(3, 1, "D")))
    assert [piece.heading for piece in split(text)] == ["A", "A > B", "A > C", "D"]
