"""The docs say what the code does: every setting with its default, every limit with its value."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import gunicorn.config
import pytest
from pydantic import SecretStr
from pydantic_core import PydanticUndefined

import api.bodies
import api.gateway.outbox
import api.gateway.protocol
import api.gateway.socket
import api.gateway.tickets
import api.gunicorn_worker
import api.idempotency
import api.operations
import api.refusals
import api.resources.documents
import api.submission
import api.waiting
import shared.context
import shared.event_types
import shared.frames
import shared.grants
import shared.jsonvalue
import shared.outcomes
import shared.records
import shared.sandbox_login
import worker.agentthreads
import worker.calls
import worker.core
import worker.held
import worker.mcp.sessions
import worker.state
import worker.supervise
import worker.toolcalls
import worker.tooling
import worker.tools.passages.index
import worker.tools.passages.splitting
import worker.tools.web.page
import worker.walls
from shared.settings import COMMAND_NAMES, PREFIX, Settings

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
SETTING_COLUMNS = 4  # a table of commands' variables, with fewer, follows under the same heading
UNITS = {"KiB": 1024, "MiB": 1024 * 1024}


def of_login(setting: str) -> int:
    """Returns a setting of the sandboxes' login, in seconds."""
    number, unit = re.fullmatch(r"(\d+)(s|min|h)", shared.sandbox_login.SETTINGS[setting]).groups()  # type: ignore[union-attr]
    return int(number) * {"s": 1, "min": 60, "h": 3600}[unit]


LIMITS: dict[str, float] = {
    "input of a run": api.submission.MAX_INPUT_BYTES,
    "metadata of a run": api.submission.MAX_METADATA_BYTES,
    "JSON body of a request": api.operations.MAX_JSON_BYTES,
    "nesting of JSON": shared.jsonvalue.MAX_NESTING,
    "document": api.resources.documents.MAX_BYTES,
    "`Idempotency-Key`": api.idempotency.MAX_KEY_LENGTH,
    "user, thread and other ids of a context": shared.context.MAX_ID_LENGTH,
    "requests of one user that wait for the end of a run, per api process": api.waiting.MAX_WAITERS_PER_USER,
    "requests that wait for the end of a run, per api process": api.waiting.MAX_WAITERS,
    "bodies of one user in memory, sent or downloaded, together, per api process": api.bodies.MAX_BYTES_PER_USER,
    "bodies in memory, sent or downloaded, together, per api process": api.bodies.MAX_BYTES,
    "body that does not count for these two": api.bodies.SMALL_BYTES,
    "documents above 1 MiB that go to Postgres or come from it at once, per api process": api.bodies.MAX_HEAVY,
    "time that such a document waits for its turn": api.bodies.MAX_WAIT_S,
    "time for the next 256 KiB of a body, sent or downloaded": api.bodies.PATIENCE_S,
    "least rate of a body as a whole, sent or downloaded, after these first seconds": api.bodies.LEAST_BYTES_PER_S,
    "time for the rest of a body that is not read, mostly of a refused request": api.gunicorn_worker.REST_S,
    "WebSocket connections of a user, per api process; SSE streams count": api.gateway.protocol.MAX_SOCKETS_PER_USER,
    "time until the first frame of a WebSocket": api.gateway.protocol.HELLO_TIMEOUT_S,
    "age of a WebSocket ticket": api.gateway.tickets.TTL_S,
    "frame from a WebSocket client": api.gateway.protocol.MAX_MESSAGE_BYTES,
    f"frames a second from a WebSocket client, above a burst of {api.gateway.socket.BURST:g}": (
        api.gateway.socket.RATE_PER_S
    ),
    "frames that wait for a slow WebSocket or SSE client": api.gateway.outbox.MAX_FRAMES,
    "bytes that wait for a slow WebSocket or SSE client": api.gateway.outbox.MAX_BYTES,
    "time for a WebSocket client to take 256 KiB, or an SSE client anything, of what is written to it": (
        api.gateway.socket.WRITE_DEADLINE_S
    ),
    "output of a run": worker.core.MAX_OUTPUT_BYTES,
    "data of an event": shared.event_types.MAX_DATA_BYTES,
    "text of tokens that become one event": worker.held.MAX_JOINED_BYTES,
    "frame between a worker and a sandbox": shared.frames.MAX_FRAME_BYTES,
    "what a sandbox sends its worker in one attempt": worker.supervise.MAX_READ_BYTES,
    "events of an attempt, besides tokens, which are joined": worker.supervise.MAX_EVENTS,
    "processes and threads of a sandbox with an account of its own": worker.walls.MAX_TASKS,
    "processes and threads of the account that sandboxes share, above what there were when one began": (
        worker.walls.SHARED_TASKS
    ),
    "files that a process of a sandbox has open": worker.walls.MAX_FILES,
    "file that a sandbox writes": worker.walls.MAX_FILE_BYTES,
    "time in which a sandbox reads nothing of what it is sent": worker.supervise.READS_NOTHING_S,
    "statement of an agent's session, unless it sets `statement_timeout` itself": of_login("statement_timeout"),
    "wait of an agent's statement for a lock": of_login("lock_timeout"),
    "idle transaction of an agent's session": of_login("idle_in_transaction_session_timeout"),
    "value in `run.store`": worker.calls.MAX_VALUE_BYTES,
    "values in `run.store` of a user, over all runs": worker.calls.MAX_VALUES,
    "documents of a user": api.resources.documents.MAX_DOCUMENTS,
    "first line of a request, so its address": gunicorn.config.LimitRequestLine.default,
    "header fields of a request": gunicorn.config.LimitRequestFields.default,
    "header field of a request": gunicorn.config.LimitRequestFieldSize.default,
    "passages of a document": worker.tools.passages.index.MAX_PASSAGES,
    "characters of a passage": worker.tools.passages.splitting.MAX,
    "result of a recorded step": worker.state.MAX_STEP_BYTES,
    "recorded steps of a run": shared.records.MAX_STEPS,
    "results of the steps of a run, together": shared.records.MAX_STEPS_BYTES,
    "what an agent remembers in a thread, or in a run": worker.calls.MAX_STATE_BYTES,
    "artifact": worker.calls.MAX_ARTIFACT_BYTES,
    "artifacts of a run": shared.records.MAX_ARTIFACTS,
    "artifacts of a run, together": shared.records.MAX_ARTIFACTS_BYTES,
    "result of a tool": worker.tooling.MAX_RESULT_BYTES,
    "plain (not async) agents of a workflow at once": worker.agentthreads.MAX_AT_ONCE,
    "tool calls of a run at once": worker.toolcalls.MAX_AT_ONCE,
    "tool calls of a run that wait for their turn": worker.toolcalls.MAX_WAITING,
    "time that a tool call waits for its turn": worker.toolcalls.MAX_WAIT_S,
    "pause that `Retry` asks for": shared.outcomes.MAX_AFTER_S,
    "denied tool calls of an attempt in the audit trail": worker.supervise.MAX_DENIALS,
    "kinds of refused sign-ins and calls in two seconds, per api process": api.refusals.MAX_KINDS,
    "page that `fetch` reads, as it comes and unpacked": worker.tools.web.page.MAX_BYTES,
    "redirects that `fetch` follows": worker.tools.web.page.MAX_REDIRECTS,
    "tools granted to a user": shared.grants.MAX_GRANTS,
    "tools of an MCP server": worker.mcp.sessions.MAX_TOOLS,
}


def rows(heading: str) -> list[list[str]]:
    """Returns the cells of the table rows below a line of the page, until the next heading."""
    text = PAGE.read_text().split(f"\n{heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[1:]]


def default_in_words(default: Any) -> str:
    if default is PydanticUndefined:
        return "required"
    if default is None:
        return "unset"
    if isinstance(default, tuple):
        return ",".join(f"`{item}`" for item in default) or "none"
    if isinstance(default, SecretStr):
        return f"`{default.get_secret_value()}`"
    return f"`{default}`" if isinstance(default, str) else f"{default:g}" if default < 10_000 else str(default)


def test_every_setting_stands_in_its_table_with_its_default() -> None:
    documented = {cells[0].strip("`"): cells[1] for cells in rows("## Settings") if len(cells) == SETTING_COLUMNS}
    actual = {PREFIX + name.upper(): default_in_words(field.default) for name, field in Settings.model_fields.items()}
    assert documented == actual


def test_every_variable_of_the_commands_is_listed() -> None:
    assert {name.strip("`").removeprefix(PREFIX) for name, *_ in rows("Read by commands only:")} == COMMAND_NAMES


@pytest.mark.parametrize("name", LIMITS)
def test_every_limit_has_the_value_of_the_code(name: str) -> None:
    (value,) = [value for limit, value, _answer in rows("## Limits") if limit == name]
    number, unit = value.split()
    assert float(number) * UNITS.get(unit, 1) == LIMITS[name]


def test_limits_without_a_constant_are_settings_or_the_runs_own() -> None:
    others = [value for limit, value, _answer in rows("## Limits") if limit not in LIMITS]
    assert all(re.fullmatch(r"`LANEWISE_\w+`|its `\w+`", value) for value in others)


def test_sizes_in_the_names_of_limits() -> None:
    assert (api.bodies.PIECE_BYTES, api.bodies.HEAVY_BYTES) == (256 * 1024, 1024 * 1024)


def test_both_sides_of_the_sandbox_agree_on_the_output() -> None:
    assert worker.core.MAX_OUTPUT_BYTES == worker.supervise.MAX_OUTPUT_BYTES


@pytest.mark.parametrize("page", [PAGE.parents[1] / "README.md", *PAGE.parent.glob("*.md")], ids=lambda page: page.name)
def test_every_link_within_the_project_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", ["CHANGELOG.md", "docs/decisions.md"])
def test_what_many_edit_has_each_entry_once_and_headings_apart(name: str) -> None:
    lines = (PAGE.parents[1] / name).read_text().splitlines()
    headings = [line for line in lines if line.startswith("## ")]
    assert len(set(headings)) == len(headings)
    entries = [line for line in lines if line.startswith("- ")]
    assert len(set(entries)) == len(entries)
    assert [line for before, line in pairwise(lines) if line.startswith("##") and before] == []
