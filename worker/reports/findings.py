"""What a report is written from: the outputs of `data` and `research`, checked."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, Field, model_validator

Text = Annotated[str, Field(max_length=20_000)]
Name = Annotated[str, Field(max_length=512)]


class Column(BaseModel):
    """A column of a result."""

    name: Name
    type: Name = ""


class Table(BaseModel):
    """The table that was looked at."""

    source: Name
    rows: int
    columns: list[Column] = []


class Result(BaseModel):
    """The result of a query."""

    sql: Text
    columns: list[Column]
    rows: list[list[Any]]
    row_count: int | None
    truncated: bool = False

    @model_validator(mode="after")
    def _rows_fit(self) -> Result:
        wrong = next((row for row in self.rows if len(row) != len(self.columns)), None)
        if wrong is not None:
            raise ValueError(f"rows: one has {len(wrong)} values, and there are {len(self.columns)} columns")
        return self


class Chart(BaseModel):
    """A chart as SVG."""

    title: Name
    svg: str = Field(max_length=512 * 1024, pattern=r"^<svg ")


class Figures(BaseModel):
    """An output of `data`; `about` says in words what was asked of the table."""

    about: Text = ""
    table: Table
    profile: list[dict[str, Any]] = []
    query: Result | None = None
    chart: Chart | None = None


class Passage(BaseModel):
    """A passage that `research` found."""

    text: Text
    citation: int


class Citation(BaseModel):
    """Where a passage stands."""

    id: int
    document: Name
    sha256: Name
    passage: int
    heading: str = Field("", max_length=2_000)
    page: int | None = None
    start: int
    end: int
    quote: Text = ""


class Reading(BaseModel):
    """An output of `research`."""

    question: Text
    found: bool
    answer: Text = ""
    passages: list[Passage] = Field([], max_length=50)
    citations: list[Citation] = Field([], max_length=50)


class Findings(BaseModel):
    """All that is known for a report.

    Attributes:
        request: what was asked.
        data: outputs of `data`.
        research: an output of `research`.
        notes: what could not be found out, and why.
    """

    request: str = Field(min_length=1, max_length=4_000)
    data: list[Figures] = Field([], max_length=8)
    research: Reading | None = None
    notes: list[Text] = Field([], max_length=50)
