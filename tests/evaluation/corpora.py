"""Documents that nobody wrote for us and every development environment has: no download, nothing of ours."""

from __future__ import annotations

import importlib.metadata
import inspect
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

CONSTRAINTS = Path(__file__).parents[2] / "constraints.txt"
MIN_README = 4_000  # characters
DIALECTS = ("mssql", "mysql", "oracle", "postgresql", "sqlite")


@dataclass(frozen=True, eq=False)  # as a key it is itself: what is computed of one is kept
class Corpus:
    """Documents of one kind: text by name."""

    name: str
    documents: dict[str, str]


def language_reference() -> Corpus:
    """The Python language reference, as `help()` shows it: plain text."""
    return Corpus("language", {f"{topic}.txt": text for topic, text in sorted(topics.items())})


def readmes() -> Corpus:
    """What the pinned packages say of themselves: Markdown and reStructuredText."""
    pinned = re.findall(r"^([\w.-]+)==", CONSTRAINTS.read_text(), re.MULTILINE)
    documents = {}
    for name in pinned:
        try:
            about: Any = importlib.metadata.metadata(name)  # an email message, which its protocol does not tell
        except importlib.metadata.PackageNotFoundError:
            continue
        text = str(about.get_payload() or about.get("Description") or "")
        ending = "md" if "markdown" in str(about.get("Description-Content-Type")) else "rst"
        if len(text) >= MIN_README:
            documents[f"{name}.{ending}"] = text
    return Corpus("readmes", documents)


def dialects() -> Corpus:
    """SQLAlchemy's chapters on databases: reStructuredText."""
    modules = {name: import_module(f"sqlalchemy.dialects.{name}.base") for name in DIALECTS}
    return Corpus(
        "dialects", {f"{name}.rst": inspect.cleandoc(module.__doc__ or "") for name, module in modules.items()}
    )


def corpora() -> tuple[Corpus, ...]:
    """All three."""
    return language_reference(), readmes(), dialects()
