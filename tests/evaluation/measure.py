"""Asks questions of the real tool over a real Postgres and counts what came of them."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from shared.context import UserExecutionContext
from shared.models import Document
from shared.services import Services
from shared.settings import Settings
from shared.signing import TOKEN_PURPOSE, database_token, derive_key
from tests.evaluation.corpora import Corpus
from tests.evaluation.questions import Question, flat
from tests.parts import DictStore, RecordingBridge
from tests.services import SECRETS, start_run, submit_run
from worker.managers import SandboxDatabase
from worker.tools.deep_research import DeepResearchTool
from worker.toolsystem import UserContextToolFactory, UserToolSystem


@dataclass
class Tally:
    """What came of the questions of one kind."""

    asked: int = 0
    found: int = 0
    first: int = 0
    among_five: int = 0
    failures: list[str] = field(default_factory=list)


def put(services: Services, user_id: str, name: str, content: bytes | str, content_type: str = "text/plain") -> str:
    """Stores a document of a user's, or replaces it; returns its sha256."""
    raw = content.encode() if isinstance(content, str) else content
    sha256 = hashlib.sha256(raw).hexdigest()
    with services.database.user_session(user_id) as session:
        session.merge(
            Document(user_id=user_id, name=name, content_type=content_type, size=len(raw), sha256=sha256, content=raw)
        )
    return sha256


@contextmanager
def research_tools(
    services: Services, settings: Settings, user_id: str = "alice", bridge: RecordingBridge | None = None
) -> Iterator[UserToolSystem]:
    """Yields the tool system of a running run of the user's, with sessions of the run's own role."""
    run = start_run(services, submit_run(services, user_id))
    context = UserExecutionContext.from_request(user_id, run.thread_id, run.id)
    token = database_token(derive_key(SECRETS[0], TOKEN_PURPOSE), user_id, run.id, run.attempt, 600)
    assert settings.run_database_url is not None
    with closing(SandboxDatabase(settings.run_database_url.get_secret_value(), token)) as database:
        factory = UserContextToolFactory(database, DictStore())
        events = bridge or RecordingBridge()
        yield factory.create_user_tool_system(context, [DeepResearchTool], lambda _: events)


def measure(tools: UserToolSystem, questions: list[Question]) -> dict[str, Tally]:
    """Asks each question; returns what came of them by kind."""
    tallies: dict[str, Tally] = defaultdict(Tally)
    for question in questions:
        tally = tallies[question.kind]
        answer = tools.call("deep_research", question=question.text, max_passages=5)
        tally.asked += 1
        tally.found += answer["found"]
        hits = [_holds(passage, question.gold) for passage in _passages(answer)]
        tally.first += any(hits[:1])
        tally.among_five += any(hits)
        if (question.gold is None) == answer["found"] or (question.gold and not any(hits)):
            tally.failures.append(question.text)
    return dict(tallies)


def total(tallies: Iterable[Tally]) -> Tally:
    """Adds them up."""
    added = Tally()
    for tally in tallies:
        added.asked += tally.asked
        added.found += tally.found
        added.first += tally.first
        added.among_five += tally.among_five
        added.failures += tally.failures
    return added


def store_corpus(services: Services, corpus: Corpus, user_id: str) -> None:
    """Uploads a corpus for a user."""
    for name, text in corpus.documents.items():
        put(services, user_id, name, text)


def _passages(answer: dict[str, Any]) -> list[str]:
    return [f"{cited['heading']} {cited['quote']}" for cited in answer["citations"]]


def _holds(passage: str, gold: str | None) -> bool:
    return gold is not None and gold in flat(passage)
