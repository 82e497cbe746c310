"""A user who has a row in every table that users have rows in."""

from __future__ import annotations

from datetime import UTC, datetime

from shared.models import (
    AgentState,
    Artifact,
    Document,
    IdempotencyKey,
    Passage,
    Revocation,
    Run,
    RunStep,
    ToolGrant,
    UserLimit,
)
from shared.services import Services
from tests.services import start_run, submit_run


def populate(services: Services, user_id: str) -> Run:
    """Makes one row in each table, but for `deletions`; returns the user's run, which is running."""
    run = start_run(services, submit_run(services, user_id))
    with services.database.user_session(user_id) as session:
        session.add_all(
            [
                Document(
                    user_id=user_id, name="d", content_type="text/plain", size=1, sha256="x",
                    content=f"of {user_id}".encode(),
                ),
                UserLimit(user_id=user_id, concurrent_runs=1),
                IdempotencyKey(user_id=user_id, key="k", fingerprint="f", run_id=run.id),
                RunStep(user_id=user_id, run_id=run.id, name="s", attempt=1, size=1, result=1),
                AgentState(
                    user_id=user_id, thread_id=run.thread_id, agent="a", run_id="", version=1, value=1,
                    saved_by=run.id,
                ),
                Artifact(
                    user_id=user_id, run_id=run.id, name="a", content_type="text/plain", size=1, sha256="x",
                    content=b"1",
                ),
                Revocation(user_id=user_id, revoked_at=datetime.now(UTC)),
                ToolGrant(user_id=user_id, tool="t", granted_by="user:root"),
            ]
        )  # fmt: skip
        session.flush()
        session.add(
            Passage(
                user_id=user_id, document="d", number=1, sha256="x", heading="", start_char=0, end_char=1,
                text=f"of {user_id}",
            )
        )  # fmt: skip
    return run
