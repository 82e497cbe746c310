"""`run.artifacts`: files that an agent saves for the user of its run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from shared.event_types import EventType
from worker.emitter import UserWebSocketEmitter


class Artifacts:
    """Saves files of one run.

    Args:
        save: keeps a file: name, content type, content.
        emit: tells the user of each file.
    """

    def __init__(self, save: Callable[[str, str, bytes], None], emit: UserWebSocketEmitter) -> None:
        self._save = save
        self._emit = emit

    def save(self, name: str, content: str | bytes, content_type: str) -> dict[str, Any]:
        """Saves a file; one of the same name is replaced.

        Args:
            name: 1 to 100 letters, digits, spaces or any of `. _ - + ( )`.
            content: at most 4 MiB; text is encoded in UTF-8. A run has at most 32 files and 16 MiB.
            content_type: as in HTTP, e.g. `text/csv; charset=utf-8`.

        Returns:
            `{"name", "content_type", "size"}`, which is also the event.

        Raises:
            InvalidError: a bad name or type.
            TooLargeError: above 4 MiB.
            QuotaError: the run has too many, or too much.
            UnavailableError: the database is away, for a minute.
        """
        data = content.encode() if isinstance(content, str) else bytes(content)
        self._save(name, content_type, data)
        saved = {"name": name, "content_type": content_type, "size": len(data)}
        self._emit.emit(EventType.AGENT_ARTIFACT, saved)
        return saved
