"""PDF files made in memory, honest ones and hostile ones."""

from __future__ import annotations

import io

from pypdf import PdfWriter
from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject, StreamObject


def a_pdf(*pages: str) -> bytes:
    """Returns a PDF with these texts, a page each."""
    return pdf_of_streams(*(_drawing(text) for text in pages))


def pdf_of_streams(*streams: bytes | StreamObject, password: str | None = None) -> bytes:
    """Returns a PDF whose pages have these contents."""
    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for content in streams:
        page = writer.add_blank_page(612, 792)
        fonts = DictionaryObject({NameObject("/F1"): writer._add_object(font)})
        page[NameObject("/Resources")] = DictionaryObject({NameObject("/Font"): fonts})
        page[NameObject("/Contents")] = writer._add_object(_stream(content) if isinstance(content, bytes) else content)
    if password is not None:
        writer.encrypt(password, algorithm="RC4-128")
    target = io.BytesIO()
    writer.write(target)
    return target.getvalue()


def a_bomb(size: int) -> StreamObject:
    """Returns a stream of `size` bytes that takes a thousandth of them in the file."""
    return _stream(b" " * size).flate_encode()


def _stream(data: bytes) -> StreamObject:
    stream = DecodedStreamObject()
    stream.set_data(data)
    return stream


def _drawing(text: str) -> bytes:
    lines = "".join(f"({line}) Tj T* " for line in text.splitlines())
    return f"BT /F1 12 Tf 14 TL 72 720 Td {lines} ET".encode()
