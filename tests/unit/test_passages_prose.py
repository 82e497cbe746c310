"""What of a passage is prose, and what is code."""

from __future__ import annotations

import pytest

from worker.tools.passages.prose import prose


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Words only.", ["Words only."]),
        ("Before.\n\n```sh\n$ ls\n```\n\nAfter.", ["Before.\n\n", "\n\nAfter."]),
        ("Before.\n~~~\n```\n~~~\nAfter.", ["Before.\n", "\nAfter."]),
        ("<!-- run\nthis -->\nWords.<!-- cut", ["\nWords."]),
        ("Before.\n\n```\nis cut", ["Before.\n\n"]),
        ("was cut()\n```\n\nAfter.", ["\n\nAfter."]),
        ("- item\n  ```py\n  # one\n  x = 1  # no\n  // two\n  ```", ["- item\n", "  # one", "  // two"]),
        ("# remark\nwas cut()\n```", ["# remark"]),
        ("```\ncode()\n```", []),
    ],
)  # fmt: skip
def test_fences_and_comments_are_left_out(text: str, expected: list[str]) -> None:
    assert [text[slice(*span)] for span in prose(text)] == expected
