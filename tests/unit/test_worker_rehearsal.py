from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from worker import rehearsal
from worker.link import RunnerLink

FDS = Path("/proc/self/fd")


def test_every_rehearsal_ends_with_a_result_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []
    send = RunnerLink.send

    def recording(link: RunnerLink, frame: dict[str, Any]) -> None:
        sent.append(frame)
        send(link, frame)

    monkeypatch.setattr(RunnerLink, "send", recording)
    before = len(list(FDS.iterdir())), threading.active_count()
    rehearsal.rehearse()
    assert (len(list(FDS.iterdir())), threading.active_count()) == before
    results = [frame for frame in sent if frame["t"] != "event"]
    assert results == [{"t": "result", "output": {"ok": True}}] * rehearsal.TIMES
    assert [frame["type"] for frame in sent if frame["t"] == "event"][:4] == [
        "agent_started", "agent_thinking", "agent_progress", "tool_executing",
    ]  # fmt: skip
