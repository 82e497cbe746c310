"""Documents as passages: text out of files, cut where readers would cut it, found again by their words."""

from __future__ import annotations

from worker.tools.passages.text import DocumentError, Heading, Text

__all__ = ["DocumentError", "Heading", "Text"]
