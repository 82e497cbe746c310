from __future__ import annotations

import hashlib

import httpx
import pytest
import sqlalchemy as sa

from shared.models import Artifact
from tests.integration.api.conftest import Fleet
from tests.services import start_run, submit_run


@pytest.mark.parametrize(
    ("stored", "sent"),
    [
        ("text/csv; charset=utf-8", "text/csv; charset=utf-8"),
        ("text/пример", "application/octet-stream"),
        ("text/é", "application/octet-stream"),
        ("text/html\r\nX-Injected: 1", "application/octet-stream"),
        ("", "application/octet-stream"),
    ],
)
def test_a_content_type_that_no_header_can_carry_does_not_hide_the_artifact(
    fleet: Fleet, remote: httpx.Client, user: str, stored: str, sent: str
) -> None:
    """Such a row is not made any more; one that is there is served."""
    run = start_run(fleet.services, submit_run(fleet.services, user))
    content = b"a,b\n"
    row = {"user_id": user, "run_id": run.id, "name": "a", "content_type": stored, "content": content,
           "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}  # fmt: skip
    with fleet.services.database.user_session(user) as session:
        session.execute(sa.insert(Artifact).values(row))
    answer = remote.get(f"/v1/runs/{run.id}/artifacts/a")
    assert (answer.status_code, answer.content, answer.headers["Content-Type"]) == (200, content, sent)
    assert "X-Injected" not in answer.headers
