"""Text out of PDF, page by page."""

from __future__ import annotations

import io
import time
from typing import TYPE_CHECKING, Any

from worker.tools.passages.text import MAX_CHARACTERS, DocumentError, Text

if TYPE_CHECKING:
    from pypdf import PdfReader

MAX_PAGES = 2_000
MAX_STREAM_BYTES = 8 * 1024 * 1024
TIME_S = 120.0
_LIMITS: dict[str, Any] = {
    "zlib_maximum_output_length": MAX_STREAM_BYTES,
    "lzw_maximum_output_length": MAX_STREAM_BYTES,
    "run_length_maximum_output_length": MAX_STREAM_BYTES,
    "array_based_stream_maximum_output_length": MAX_STREAM_BYTES,
    "zlib_maximum_recovery_input_length": 1024 * 1024,
    "jbig2dec_binary": None,  # pictures are not read, and no program is started for one
}


def read_pdf(content: bytes) -> Text:
    """Returns the text of the pages, two line ends between them.

    Bounded in pages, characters, bytes of each unpacked stream and time; what was left out is noted.

    Raises:
        DocumentError: broken, encrypted, or without any text.
    """
    import pypdf  # noqa: PLC0415 - 18 MiB and 0.1 s in every worker for the few documents that need it

    try:
        with pypdf.apply_configuration(**_LIMITS):
            reader = pypdf.PdfReader(io.BytesIO(content))
            is_open = not reader.is_encrypted or bool(reader.decrypt(""))
            text = _read_pages(reader) if is_open else None
    except DocumentError:
        raise
    except Exception as error:  # a hostile file makes the library raise whatever it likes
        raise DocumentError(f"is not a PDF that can be read: {_reason(error)}") from error
    if text is None:
        raise DocumentError("is encrypted: upload it without a password")
    return text


def _read_pages(reader: PdfReader) -> Text:
    pages = reader.pages
    count = len(pages)
    parts: list[str] = []
    starts: list[int] = []
    bad: dict[int, str] = {}
    length = 0
    until = time.monotonic() + TIME_S
    notes: list[str] = []
    for number in range(min(count, MAX_PAGES)):
        if time.monotonic() > until or length > MAX_CHARACTERS:
            notes.append(f"only the first {number} of {count} pages were read")
            break
        try:
            text = pages[number].extract_text().replace("\0", "\ufffd").strip()
        except Exception as error:  # noqa: BLE001 - one broken page is no reason to lose the others
            bad[number + 1] = _reason(error)
            text = ""
        text = text.encode("utf-8", "replace").decode()[: MAX_CHARACTERS - length]
        starts.append(length)
        parts.append(text + "\n\n")
        length += len(text) + 2
    if count > MAX_PAGES:
        notes.append(f"only the first {MAX_PAGES:,} of {count:,} pages were read")
    if bad:
        first, reason = next(iter(bad.items()))
        notes.append(f"{len(bad)} of {count} pages could not be read, the first is page {first}: {reason}")
    content = "".join(parts)
    if not content.strip():
        raise DocumentError("; ".join(["has no text: it may be scanned pictures", *notes]))
    return Text(content, (), tuple(starts), tuple(notes))


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:160]
