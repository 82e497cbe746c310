"""docs/research.md says the limits that the code has."""

from __future__ import annotations

import re
from pathlib import Path

from worker.tools import deep_research
from worker.tools.passages import index, pdf, ranking, splitting, text

PAGE = (Path(__file__).parents[2] / "docs" / "research.md").read_text()
LIMITS = {
    "documents of one question": deep_research.MAX_DOCUMENTS,
    "characters of a document's text": text.MAX_CHARACTERS,
    "passages of a document": index.MAX_PASSAGES,
    "characters of a passage": splitting.MAX,
    "pages of a PDF": pdf.MAX_PAGES,
    "unpacked bytes of one stream of a PDF": pdf.MAX_STREAM_BYTES,
    "seconds for a PDF": pdf.TIME_S,
}


def test_every_limit_has_the_value_of_the_code() -> None:
    rows = re.findall(r"^\| ([^|]+) \| ([\d,]+) \|", PAGE.split("## Limits")[1], re.MULTILINE)
    assert {name: float(value.replace(",", "")) for name, value in rows} == LIMITS


def test_the_criterion_is_that_of_the_code() -> None:
    stated = " ".join(PAGE.split())
    assert f"if {ranking.ENOUGH:.0%}".replace("%", " %") in stated
    assert f"within {ranking._WINDOW} words" in stated
    fields = deep_research.DeepResearchParameters.model_json_schema()["properties"]
    assert f"{fields['question']['minLength']} to {fields['question']['maxLength']:,} characters" in stated
    passages = fields["max_passages"]
    assert f"{passages['minimum']} to {passages['maximum']}, default {passages['default']}" in stated
