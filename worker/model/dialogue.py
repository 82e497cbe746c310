"""`Dialogue`: a model and the user's tool system, turn by turn, until the model answers; within limits.

Each answer of the model and the results of the tools it called are steps of the run: a recovered run goes on behind the
last one, and pays for none of them again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from shared.context import UserExecutionContext
from worker.authoring import AgentRun
from worker.model.client import Message, Model
from worker.model.errors import ModelLimitError, ModelProtocolError
from worker.model.reply import Reply, ToolCall
from worker.model.schema import function_of

MAX_TURNS = 20
MAX_CALLS = 64
MAX_MALFORMED_CALLS = 5
MAX_TOKENS = 400_000
MAX_RESULT_BYTES = 16 * 1024
MAX_PIECE = 2000  # characters; with every one escaped still well below the 64 KiB of an event
_CHARS_PER_TOKEN = 4  # where an endpoint does not count
_NOT_A_NAME = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True)
class _Call:
    """A tool call as it goes on: what the dispatcher gets, or why it gets nothing."""

    id: str
    name: str
    parameters: dict[str, Any] | None
    problem: str = ""

    def echo(self) -> dict[str, Any]:
        """Returns the call as the model is reminded of it: endpoints refuse names and arguments that are none."""
        function = {
            "name": _NOT_A_NAME.sub("_", self.name)[:64] or "unnamed",
            "arguments": json.dumps(self.parameters or {}),
        }
        return {"id": self.id, "type": "function", "function": function}


class Dialogue:
    """One conversation with a model that may call tools. Made for one run, used once.

    Args:
        model: to talk to.
        context: in which the tools are called.
        run: of the agent.
        messages: what the model is told first.
        keep: called with the number of a call in the run and what its tool returned; gives what the model is told.
    """

    def __init__(
        self,
        model: Model,
        context: UserExecutionContext,
        run: AgentRun,
        messages: Sequence[Message],
        keep: Callable[[int, Any], Any] = lambda _, value: value,
    ) -> None:
        self._model = model
        self._context = context
        self._run = run
        self._messages: list[Message] = list(messages)
        self._keep = keep
        self._tools: list[dict[str, Any]] = []
        self._tokens = 0
        self._malformed = 0
        self.turns = 0
        self.calls = 0

    async def answer(self) -> Reply:
        """Returns the first answer in which the model calls no tool.

        Raises:
            ModelError: there is none, within the limits; the message names the limit.
        """
        state = self._run.state
        self._tools = list(map(function_of, await asyncio.to_thread(self._run.tools.registry.schemas)))
        while self.turns < MAX_TURNS:
            self.turns += 1
            reply = Reply.from_dict(await state.step(f"model {self.turns}", self._ask))
            self._spend(reply)
            if not reply.calls:
                return reply
            calls = self._checked(reply.calls)
            results = await state.step(f"tools {self.turns}", self._dispatch_all, calls)
            self._messages.append(
                {"role": "assistant", "content": reply.text, "tool_calls": [call.echo() for call in calls]}
            )
            for call, result in zip(calls, results, strict=True):
                self._messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        raise ModelLimitError(f"the model still called tools in turn {MAX_TURNS}, which is the last one")

    async def _ask(self) -> dict[str, Any]:
        options: dict[str, Any] = {}
        if self._tools:
            # In the last turn it has to answer with what it knows by then.
            options = {"tools": self._tools, "tool_choice": "auto" if self.turns < MAX_TURNS else "none"}
        reply = await self._model.reply(self._messages, self._say, **options)
        return reply.to_dict()

    def _say(self, text: str) -> None:
        """Streams what the model says: some endpoints say all of it at once."""
        for start in range(0, len(text), MAX_PIECE):
            self._run.emit.token(text[start : start + MAX_PIECE])

    def _spend(self, reply: Reply) -> None:
        counted = reply.input_tokens + reply.output_tokens
        self._tokens += counted or len(json.dumps(self._messages)) // _CHARS_PER_TOKEN
        if self._tokens > MAX_TOKENS and reply.calls:
            raise ModelLimitError(
                f"the model has used {self._tokens:,} tokens in this run; the limit is {MAX_TOKENS:,}"
            )

    def _checked(self, calls: Sequence[ToolCall]) -> list[_Call]:
        self.calls += len(calls)
        if self.calls > MAX_CALLS:
            raise ModelLimitError(f"the model called more than {MAX_CALLS} tools in this run")
        taken: set[str] = set()
        checked = []
        for number, call in enumerate(calls, 1):
            call_id = call.id if call.id and call.id not in taken else f"call_{self.turns}_{number}"
            taken.add(call_id)
            parameters, problem = _parameters(call)
            if problem:
                self._malformed += 1
            checked.append(_Call(call_id, call.name, parameters, problem))
        if self._malformed > MAX_MALFORMED_CALLS:
            raise ModelProtocolError(
                f"the model made {self._malformed} malformed tool calls in this run; the limit is "
                f"{MAX_MALFORMED_CALLS}. Of the last one {next(call.problem for call in checked[::-1] if call.problem)}"
            )
        return checked

    async def _dispatch_all(self, calls: Sequence[_Call]) -> list[str]:
        names = list(dict.fromkeys(call.name[:64] for call in calls))
        self._run.emit.thinking(f"calling {', '.join(names)}")
        numbers = range(self.calls - len(calls) + 1, self.calls + 1)
        return list(await asyncio.gather(*map(self._dispatch, numbers, calls)))

    async def _dispatch(self, number: int, call: _Call) -> str:
        """Returns what the model is told of a call: always JSON, so that nothing in it can pass for anything else."""
        if call.parameters is None:
            self._run.emit.thinking(f"the model's call of {call.name[:64]!r} is malformed: {call.problem}")
            return _shortened({"error": {"type": "malformed", "message": call.problem}})
        result = await self._run.tools.dispatch_tool(call.name, call.parameters, self._context)
        if not result.success:
            return _shortened({"error": dict(result.error or {})})
        return _shortened({"result": await asyncio.to_thread(self._keep, number, result.value)})


def _parameters(call: ToolCall) -> tuple[dict[str, Any] | None, str]:
    if not call.name:
        return None, "the call names no tool"
    try:
        value = json.loads(call.arguments or "{}", parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        return None, f"its arguments are not JSON: {error}"[:300]
    if not isinstance(value, dict):
        return None, f"its arguments are not a JSON object, but a {type(value).__name__}"
    return value, ""


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _shortened(content: dict[str, Any]) -> str:
    text = json.dumps(content, ensure_ascii=False)
    raw = text.encode(errors="replace")
    if len(raw) <= MAX_RESULT_BYTES:
        return text
    kept = raw[:MAX_RESULT_BYTES].decode(errors="ignore")
    return json.dumps(
        {"shortened": kept, "note": f"the first {MAX_RESULT_BYTES:,} of {len(raw):,} bytes"}, ensure_ascii=False
    )
