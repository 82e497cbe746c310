"""`DeepResearchTool`: finds passages in a user's documents that answer a question, and quotes them exactly."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

from shared.context import UserExecutionContext
from worker.authoring import Tool, ToolError
from worker.tools.passages.answer import quotes
from worker.tools.passages.index import Listed, PassageIndex
from worker.tools.passages.search import Findings, Search

# They are imported when a document needs them; a worker without them has to learn it at its start.
for _needed in ("lxml", "pypdf"):
    if importlib.util.find_spec(_needed) is None:
        raise ModuleNotFoundError(f"No module named {_needed!r}", name=_needed)

MAX_DOCUMENTS = 200
_INDEXED = 0.6  # of the progress, once every document has its passages

DocumentName = Annotated[str, Field(min_length=1, max_length=255, pattern=r"^[^\x00]+$")]


class DeepResearchParameters(BaseModel):
    """A question, and where to look."""

    model_config = ConfigDict(extra="forbid")

    question: str = Field(
        min_length=3,
        max_length=2000,
        description="in plain words; put in quotes what has to stand there exactly so",
        examples=["Who may approve travel above 2,000 euros?"],
    )
    documents: list[DocumentName] | None = Field(
        None,
        min_length=1,
        max_length=MAX_DOCUMENTS,
        description="names of documents to look in; left out: all of the user's",
        examples=[["handbook.md"]],
    )
    max_passages: int = Field(6, ge=1, le=20, description="at most so many passages are given back")


class DeepResearchTool(Tool):
    """Searches the user's own documents (Markdown, text, HTML, PDF) for passages that answer a question.

    Quotes them exactly, with citations that can be looked up; says so if the documents do not answer it.
    """

    name: ClassVar[str] = "deep_research"
    Parameters: ClassVar[type[BaseModel]] = DeepResearchParameters
    time_limit_s: ClassVar[float] = 600  # the first call reads all documents

    def run(self, context: UserExecutionContext, parameters: DeepResearchParameters) -> dict[str, Any]:
        """Returns `question`, `found`, `answer`, `passages`, `citations`, `follow_ups`, `searched` and `notes`.

        Raises:
            ToolError: there are no documents, or none of a given name.
            UnavailableError: Postgres is away.
        """
        del context  # the scope's session already sees this user's rows only
        index = PassageIndex(self.scope.db)
        listed = index.documents(parameters.documents, MAX_DOCUMENTS + 1)
        if not listed or parameters.documents:
            self._check_names(index, parameters.documents or [], listed)
        notes = self._index(index, listed[:MAX_DOCUMENTS])
        if len(listed) > MAX_DOCUMENTS:
            notes.append(f"only the first {MAX_DOCUMENTS} documents by name were searched: name those that matter")
        names = [document.name for document in listed[:MAX_DOCUMENTS]]
        with self.scope.db() as session:
            search = Search(session, names, self.scope.emit.thinking)
            findings = search.answer(parameters.question, parameters.max_passages)
        self.scope.emit.progress(0.95, f"{len(findings.passages)} passages found")
        return _answer(parameters.question, findings) | {"searched": len(names), "notes": notes}

    def _check_names(self, index: PassageIndex, wanted: Sequence[str], listed: Sequence[Listed]) -> None:
        there = {document.name for document in listed}
        missing = [name for name in wanted if name not in there]
        if not missing and there:
            return
        known = [document.name for document in index.documents(None, 1000)]
        if not known:
            raise ToolError("there are no documents to search yet (PUT /v1/documents/{name} makes one)")
        near = difflib.get_close_matches(missing[0], known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ToolError(f"no document is called {missing[0]!r}{hint}; there are: {_some(known)}")

    def _index(self, index: PassageIndex, documents: Sequence[Listed]) -> list[str]:
        """Makes the passages that are missing; returns what there is to note of all documents."""
        notes = []
        todo = [document for document in documents if not document.is_indexed]
        for number, document in enumerate(todo):
            self.scope.emit.progress(_INDEXED * number / len(todo), f"reading {document.name}")
            notes += _notes(document.name, index.make(document.name))
        for document in documents:
            if document.is_indexed:
                notes += _notes(document.name, document.notes)
        self.scope.emit.progress(_INDEXED, f"searching {len(documents)} documents")
        return sorted(notes)


def _notes(name: str, notes: str) -> list[str]:
    return [f"{name}: {note}" for note in notes.splitlines()]


def _some(names: Sequence[str]) -> str:
    return f"{', '.join(names[:20])}{', …' if len(names) > 20 else ''}"  # noqa: PLR2004 - as many as one reads


def _answer(question: str, findings: Findings) -> dict[str, Any]:
    passages = [
        {"text": passage.text, "score": round(passage.score, 4), "citation": number}
        for number, passage in enumerate(findings.passages, 1)
    ]
    citations = [
        {
            "id": number,
            "document": passage.document,
            "sha256": passage.sha256,
            "passage": passage.number,
            "heading": passage.heading,
            "page": passage.page,
            "start": passage.start,
            "end": passage.end,
            "quote": passage.text,
        }
        for number, passage in enumerate(findings.passages, 1)
    ]
    return {
        "question": question,
        "found": bool(passages),
        "answer": _quotes(findings) if passages else _not_found(findings),
        "passages": passages,
        "citations": citations,
        "follow_ups": list(findings.follow_ups),
    }


def _quotes(findings: Findings) -> str:
    said = [f"“{sentence}” [{number}]" for number, sentence in quotes(findings.passages, findings.weights.of)]
    return "\n\n".join([*said, *(f"Not found: {part}" for part in findings.unanswered)])


def _not_found(findings: Findings) -> str:
    text = "Not found: the documents do not say it."
    weights = findings.weights
    if not weights.of:
        return f"{text} The question has no words to search for."
    if weights.missing:
        text = f"{text} Nowhere in them: {', '.join(weights.missing[:10])}."
    if near := findings.nearest:
        lacking = [word for word in weights.of if word not in near.terms]
        place = " > ".join(filter(None, (near.document, near.heading)))
        text = f"{text} The nearest passage, {near.number} of {place}, is not about: {', '.join(lacking[:10])}."
    return text
