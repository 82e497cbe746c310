"""What the demo's users upload: public data that came with Python and the dependencies, and our own documentation."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FIRST_PLANES = range(0x30000)  # further up there are hardly any names
MADE_UP_NAMES = ("CJK UNIFIED", "CJK COMPAT", "HANGUL SYLLABLE", "TANGUT IDEO", "KHITAN", "NUSHU CHAR")
KINDS = {
    "L": "letter", "M": "mark", "N": "number", "P": "punctuation", "S": "symbol", "Z": "separator", "C": "other",
}  # fmt: skip
CATEGORIES = {
    "Lu": "uppercase letter", "Ll": "lowercase letter", "Lt": "titlecase letter", "Lm": "modifier letter",
    "Lo": "other letter", "Mn": "mark without width", "Mc": "mark with width", "Me": "enclosing mark",
    "Nd": "decimal digit", "Nl": "letter number", "No": "other number", "Pc": "connector", "Pd": "dash",
    "Ps": "opening bracket", "Pe": "closing bracket", "Pi": "opening quote", "Pf": "closing quote",
    "Po": "other punctuation", "Sm": "mathematical symbol", "Sc": "currency symbol", "Sk": "modifier symbol",
    "So": "other symbol", "Zs": "space", "Zl": "line separator", "Zp": "paragraph separator", "Cf": "format",
}  # fmt: skip


@dataclass(frozen=True)
class Document:
    """A document to upload; `unit` is what `rows` counts."""

    name: str
    content: bytes
    rows: int
    origin: str
    unit: str = "row"


def characters() -> Document:
    """Returns the named characters of the Unicode database in Python, without those named by number."""
    named = ((code, chr(code), unicodedata.name(chr(code), "")) for code in FIRST_PLANES)
    rows = [
        (f"U+{code:04X}", name, name.split()[0], unicodedata.category(char), KINDS[unicodedata.category(char)[0]])
        for code, char, name in named
        if name and not name.startswith(MADE_UP_NAMES)
    ]
    header = ("code", "name", "first_word", "category", "kind")
    return _csv("unicode.csv", header, rows, f"Unicode {unicodedata.unidata_version}, in Python itself")


def categories() -> Document:
    """Returns what the categories of characters mean."""
    return _csv("categories.csv", ("category", "meaning"), CATEGORIES.items(), "the Unicode standard")


def certificates() -> Document:
    """Returns the root certificates that HTTPS trusts: Mozilla's list, as certifi has it."""
    import certifi  # noqa: PLC0415 - with the rest of this function, for one document only
    from cryptography import x509  # noqa: PLC0415
    from cryptography.utils import CryptographyDeprecationWarning  # noqa: PLC0415

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryptographyDeprecationWarning)  # old roots have odd serial numbers
        found = x509.load_pem_x509_certificates(Path(certifi.where()).read_bytes())
    names = x509.NameOID
    records: list[dict[str, Any]] = [
        {
            "name": _attribute(item.subject, names.COMMON_NAME) or _attribute(item.subject, names.ORGANIZATION_NAME),
            "country": _attribute(item.subject, names.COUNTRY_NAME),
            "key": type(item.public_key()).__name__.strip("_").removesuffix("PublicKey"),
            "valid_from": item.not_valid_before_utc.date().isoformat(),
            "valid_until": item.not_valid_after_utc.date().isoformat(),
        }
        for item in found
    ]
    text = "".join(json.dumps(record) + "\n" for record in records)
    origin = f"Mozilla's list, in certifi {metadata.version('certifi')}"
    return Document("certificates.jsonl", text.encode(), len(records), origin)


def about_certificates() -> Document:
    """Returns what certifi says of itself: prose, to quote from."""
    text = str(metadata.metadata("certifi").json["description"])
    origin = f"the description of certifi {metadata.version('certifi')}"
    return Document("certifi.md", text.encode(), text.count("\n"), origin, "line")


def documentation() -> Document:
    """Returns our own documentation, line by line."""
    rows = [row for name, text in documentation_texts() for row in _lines(name, text)]
    return _csv("docs.csv", ("file", "line", "section", "kind", "words"), rows, "Lanewise's own documentation")


def documentation_texts() -> list[tuple[str, str]]:
    """Returns the names and texts of our documentation; of an installed package it is the description."""
    paths = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
    texts = [(path.name, path.read_text(encoding="utf-8")) for path in paths if path.is_file()]
    return texts or [("README.md", str(metadata.metadata("lanewise").json.get("description", "")))]


def secret(canary: str) -> Document:
    """Returns a table with one value that nobody else may ever see."""
    return _csv("secret.csv", ("secret",), [(canary,)], "made up")


def _lines(name: str, text: str) -> Iterable[tuple[Any, ...]]:
    section, code = "", False
    for number, content in enumerate(text.splitlines(), 1):
        fence = content.startswith("```")
        code = code != fence
        kind = "code" if code or fence else _kind(content)
        if kind == "heading":
            section = content.lstrip("# ")
        yield name, number, section, kind, len(content.split())


def _kind(content: str) -> str:
    if not content.strip():
        return "blank"
    if content.startswith("#"):
        return "heading"
    return "table" if content.startswith("|") else "text"


def _attribute(name: Any, oid: Any) -> str | None:
    values = name.get_attributes_for_oid(oid)
    return str(values[0].value) if values else None


def _csv(name: str, header: Sequence[str], rows: Iterable[Sequence[Any]], origin: str) -> Document:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    count = 0
    for count, row in enumerate(rows, 1):  # noqa: B007 - the last one counts
        writer.writerow(row)
    return Document(name, text.getvalue().encode(), count, origin)
