from __future__ import annotations

from dataclasses import FrozenInstanceError
from typing import Any

import pytest

from shared.context import UserExecutionContext
from shared.errors import SignatureError
from shared.messages import PURPOSE, TASK_NAME, RunMessage
from shared.signing import Signer
from tests.services import a_context

SIGNER = Signer(["s" * 32], PURPOSE, "prod")


@pytest.fixture
def context() -> UserExecutionContext:
    return a_context(agent_context={"a": [1]})


@pytest.mark.parametrize("attempt", [0, 7])
def test_round_trip(context: UserExecutionContext, attempt: int) -> None:
    message = RunMessage(context, attempt)
    assert RunMessage.decode(message.encode(SIGNER), SIGNER) == message


def test_processes_of_two_versions_understand_one_another(context: UserExecutionContext) -> None:
    """While a fleet is restarted bit by bit: another name of the task or the purpose, and runs wait."""
    assert (TASK_NAME, PURPOSE) == ("lanewise.run", "run-message")
    assert SIGNER.verify(RunMessage(context, 3).encode(SIGNER)) == {"context": context.to_dict(), "attempt": 3}


def test_a_message_cannot_be_changed(context: UserExecutionContext) -> None:
    with pytest.raises(FrozenInstanceError):
        RunMessage(context, 0).attempt = 1  # type: ignore[misc]


def test_the_task_id_names_the_attempt_to_come(context: UserExecutionContext) -> None:
    assert RunMessage(context, 0).task_id == f"{context.run_id}:1"


@pytest.mark.parametrize("text", [None, 5, b"bytes", {"context": {}}, [], "", "text"])
def test_what_is_not_signed_text_is_refused(text: object) -> None:
    with pytest.raises(SignatureError):
        RunMessage.decode(text, SIGNER)


def test_a_message_signed_for_something_else_is_refused(context: UserExecutionContext) -> None:
    for other in (
        Signer(["s" * 32], "ticket", "prod"),
        Signer(["s" * 32], PURPOSE, "x"),
        Signer(["t" * 32], PURPOSE, "prod"),
    ):
        with pytest.raises(SignatureError):
            RunMessage.decode(RunMessage(context, 0).encode(other), SIGNER)


@pytest.mark.parametrize(
    "change",
    [
        {"attempt": -1}, {"attempt": 1.0}, {"attempt": True}, {"attempt": "0"}, {"attempt": None},
        {"context": None}, {"context": []}, {"context": {"v": 1}},
    ],
)  # fmt: skip
def test_a_signed_message_that_is_not_understood_is_refused(
    context: UserExecutionContext, change: dict[str, Any]
) -> None:
    with pytest.raises(SignatureError):
        RunMessage.decode(SIGNER.sign({"context": context.to_dict(), "attempt": 0} | change), SIGNER)


@pytest.mark.parametrize("name", ["user_id", "thread_id", "run_id"])
def test_a_signed_context_is_still_validated(context: UserExecutionContext, name: str) -> None:
    with pytest.raises(SignatureError):
        RunMessage.decode(SIGNER.sign({"context": context.to_dict() | {name: "system"}, "attempt": 0}), SIGNER)


@pytest.mark.parametrize("value", [[], "text", 5, None, {}])
def test_other_signed_values_are_refused(value: object) -> None:
    with pytest.raises(SignatureError):
        RunMessage.decode(SIGNER.sign(value), SIGNER)
