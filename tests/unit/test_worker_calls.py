"""What a sandbox asks its runner for, with parameters that are not what they should be."""

from __future__ import annotations

from typing import Any

import pytest

from lanewise.authoring.memory import Memory, MemoryRecords, UserValues
from shared.errors import InvalidError
from shared.models import Run
from worker.calls import Calls


@pytest.mark.parametrize("content", [None, 7, "?", "é", "IyBSZXBvcnQ=é", "\ud800", "IyBSZXBvcnQ"])
def test_an_artifact_that_is_no_base64_is_refused(content: Any) -> None:
    memory, run = Memory(), Run(user_id="alice", id="r")
    calls = Calls(UserValues(memory, "alice"), MemoryRecords(memory, run))
    parameters = {"name": "a.md", "content_type": "text/markdown", "content": content}
    with pytest.raises(InvalidError, match="content must be base64"):
        calls.answer("artifact.save", parameters)
    calls.answer("artifact.save", {**parameters, "content": "IyBSZXBvcnQ="})
    assert [kept.content for kept in memory.artifacts["alice", "r"].values()] == [b"# Report"]
