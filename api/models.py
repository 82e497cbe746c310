"""What requests must look like and what answers look like: the source of both the checks and the OpenAPI document."""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from shared.grants import MAX_GRANTS, TOOL_NAME

_LATEST = datetime(9999, 1, 1, tzinfo=UTC)  # in any zone still a date that can be written
Status = Literal["queued", "running", "completed", "failed", "cancelled", "timed_out"]
Json = dict[str, Any]


class _Answer(BaseModel):
    # Never used to check our own answers at run time; tests hold the answers to the schema.
    model_config = ConfigDict(extra="forbid")


class _Body(BaseModel):
    # A `user_id`, or any other name that we do not know, is refused instead of being quietly ignored.
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _Query(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FieldProblem(_Answer):
    """One offending field."""

    field: str
    message: str


class Problem(_Answer):
    """RFC 9457."""

    type: str
    title: str
    status: int
    code: str = Field(description="stable, for programs")
    detail: str = Field(description="for people")
    errors: list[FieldProblem] = []
    retry_after_s: float | None = None
    correlation_id: str | None = None


class RunSubmission(_Body):
    """A run to be made."""

    agent: str = Field(description="the name of an agent, see /v1/agents")
    input: Any = Field(description="JSON that the agent's input schema accepts, at most 256 KiB")
    thread_id: str | None = Field(None, description="default: a new thread")
    metadata: Json = Field({}, description="JSON of your own, at most 16 KiB, given back with the run")
    time_limit_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="seconds of running time over all attempts; default: the agent's"
    )


class Progress(_Answer):
    """How far the agent says it is."""

    fraction: float
    note: str


class Queue(_Answer):
    """Where a queued run stands and why it waits."""

    position: int = Field(description="among the user's parked runs, 1 is next; 0: a slot is granted")
    reason: Literal["user_limit", "fleet_busy", "retry_backoff", "recovering", "redis_unavailable", "no_worker"]
    eta_s: float | None


class LostAttempt(_Answer):
    """An attempt that did not come to an end of its own."""

    attempt: int
    reason: str
    message: str
    at: datetime


class RunError(_Answer):
    """Why a run did not complete."""

    type: str
    message: str
    attempt: int
    retryable: bool
    attempts: list[LostAttempt] | None = Field(None, description="the attempts that were lost before, oldest first")


class Usage(_Answer):
    """What a run has asked of models, added up over its attempts."""

    model: str = Field(description="the last one that was asked")
    requests: int
    input_tokens: int
    output_tokens: int


class Run(_Answer):
    """One job of one user."""

    id: str
    agent: str
    status: Status
    thread_id: str
    input: Any
    output: Any
    error: RunError | None
    attempt: int
    last_run_seq: int
    progress: Progress
    usage: Usage | None = Field(description="of models; null: none was asked")
    retry_of: str | None = Field(description="the run that this one is a retry of; null: of none")
    queue: Queue | None
    metadata: Json
    correlation_id: str
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class Event(_Answer):
    """Something that happened in a run; the same over REST and WebSocket."""

    t: Literal["event"]
    seq: int = Field(description="per user, gapless")
    run_id: str
    run_seq: int = Field(description="per run, gapless from 1")
    thread_id: str
    attempt: int
    type: str
    agent: str
    at: datetime
    correlation_id: str
    data: Json


class Agent(_Answer):
    """What an agent is called, takes and may use."""

    name: str
    description: str
    input_schema: Json
    queue: str
    time_limit_s: float
    max_attempts: int


class ThreadCreation(_Body):
    """A thread to be made."""

    title: str | None = Field(None, max_length=500)
    metadata: Json = Field({}, description="JSON of your own, at most 16 KiB")


class Thread(_Answer):
    """Runs that belong together."""

    id: str
    title: str | None
    metadata: Json
    created_at: datetime


class Artifact(_Answer):
    """A file that an agent saved, without its content."""

    name: str
    content_type: str
    size: int
    sha256: str
    created_at: datetime


class Artifacts(_Answer):
    """The artifacts of a run, by name."""

    items: list[Artifact]
    next_cursor: None


class Document(_Answer):
    """A file of the user's, without its content."""

    name: str
    content_type: str
    size: int
    sha256: str
    created_at: datetime
    updated_at: datetime


class Passage(_Answer):
    """A passage of a document, as research cites it."""

    document: str
    sha256: str = Field(description="of the document's content that the passage is of")
    passage: int = Field(description="its number in the document, from 1")
    heading: str = Field(description="the titles of the sections that it lies in, highest first")
    page: int | None
    start: int = Field(description="in characters of the document's text")
    end: int
    text: str


class Limits(_Answer):
    """What one user may have at once."""

    concurrent_runs: int
    queued_runs: int


class Revocation(_Answer):
    """From when on a user's tokens are good again."""

    user_id: str
    revoked_at: datetime = Field(description="tokens issued up to then are refused")


class UserDeletion(_Answer):
    """How far the deletion of a user has come."""

    user_id: str
    status: Literal["deleting", "deleted"]
    requested_at: datetime
    finished_at: datetime | None
    live_runs: int = Field(description="that have not ended yet; the rest waits for them")
    removed: dict[str, int] = Field(description="rows that are gone, by table")


class UserLimits(_Answer):
    """A user's limits, as an administrator sees them."""

    user_id: str
    concurrent_runs: int | None = Field(description="of their own; null: the fleet's")
    queued_runs: int | None = Field(description="of their own; null: the fleet's")
    effective: Limits


class LimitsReplacement(_Body):
    """What a user may have at once from now on; what is null or left out is the fleet's."""

    concurrent_runs: int | None = Field(None, ge=1, le=10_000)
    queued_runs: int | None = Field(None, ge=1, le=2**31 - 1)


class Grant(_Answer):
    """A tool that needs a grant, and a user who has one."""

    tool: str
    expires_at: datetime | None
    granted_by: str = Field(description="the id of an administrator")
    granted_at: datetime


class Grants(_Answer):
    """A user's grants, by tool."""

    items: list[Grant]


class GrantRequest(_Body):
    """A tool to be granted."""

    tool: str = Field(pattern=TOOL_NAME)
    # Strict would refuse the text that a time is in JSON.
    expires_at: Annotated[AwareDatetime, Field(strict=False, le=_LATEST)] | None = Field(
        None, description="RFC 3339 with a zone, in the future; null: it does not expire"
    )


class GrantsReplacement(_Body):
    """All the grants that a user has from now on."""

    tools: list[GrantRequest] = Field(max_length=MAX_GRANTS)


class Me(_Answer):
    """The caller."""

    user_id: str
    scopes: list[str]
    expires_at: datetime
    limits: Limits
    slots_held: int | None = Field(description="null while Redis is away")
    queued: int
    running: int


class UserSlots(_Answer):
    """A user's slots beside their live runs; a slot is written `run:attempt`."""

    user_id: str | None = Field(description="null: slots of nobody who is known")
    limit: int
    slots_held: int | None = Field(description="null while Redis is away")
    granted: int = Field(description="runs that have a slot and no worker yet")
    running: int
    parked: int = Field(description="runs that wait for a slot")
    leaked: list[str] = Field(description="slots of no live run")
    missing: list[str] = Field(description="slots that live runs should hold and don't")


class SlotTotals(_Answer):
    """Of all users, whatever the page."""

    users: int
    slots_held: int | None = Field(description="null while Redis is away")
    granted: int
    running: int
    parked: int
    leaked: int
    missing: int


class Slots(_Answer):
    """A page of users with live runs or slots, by id."""

    items: list[UserSlots]
    next_cursor: str | None
    totals: SlotTotals
    redis: Literal["ok", "away"]
    complete: bool = Field(description="false: not all keys of Redis were looked at")


class Ticket(_Answer):
    """What a browser shows in the WebSocket's hello."""

    ticket: str
    expires_in_s: int


class Health(_Answer):
    """The process answers."""

    status: Literal["ok"]


class Dependency(_Answer):
    """One thing that the service needs."""

    status: Literal["ok", "away"]
    latency_ms: float | None = None
    detail: str | None = None


class Readiness(_Answer):
    """Whether requests can be served: `degraded` still takes runs, which start later."""

    status: Literal["ok", "degraded", "unavailable", "draining"]
    dependencies: dict[str, Dependency]


class Runs(_Answer):
    """A page of runs, newest first."""

    items: list[Run]
    next_cursor: str | None


class Events(_Answer):
    """A page of events in their order."""

    items: list[Event]
    next_cursor: str | None


class Agents(_Answer):
    """The agents that running workers have."""

    items: list[Agent]


class Threads(_Answer):
    """A page of threads, newest first."""

    items: list[Thread]
    next_cursor: str | None


class Documents(_Answer):
    """A page of documents, by name."""

    items: list[Document]
    next_cursor: str | None


class AuditRecord(_Answer):
    """Who did what to what."""

    id: str
    at: datetime
    user_id: str = Field(description="whose data was touched; empty where it is not known")
    actor: str = Field(description="`user:…`, `worker:…`, `leader` or `anonymous`")
    action: str
    object: str
    outcome: str
    correlation_id: str | None
    detail: dict[str, Any]
    seal: int | None = Field(description="null: not sealed yet")


class AuditRecords(_Answer):
    """A page of the audit trail, newest first."""

    items: list[AuditRecord]
    next_cursor: str | None


class PageQuery(_Query):
    """Which page of a list."""

    limit: int = Field(50, ge=1, le=200)
    cursor: str | None = Field(None, description="`next_cursor` of the page before")


class RunsQuery(PageQuery):
    """Which runs."""

    status: Status | None = None
    thread_id: str | None = None
    agent: str | None = None


class AuditQuery(PageQuery):
    """Which records."""

    user_id: str | None = Field(None, description="whose data was touched")
    action: str | None = Field(None, max_length=64, description="e.g. `run.submit`")


class EventsQuery(PageQuery):
    """Which events of a run."""

    after: int = Field(0, ge=0, le=2**31 - 1, description="only events with a higher `run_seq`")


class WaitQuery(_Query):
    """How long to wait."""

    timeout_s: float = Field(30, ge=0, le=60, allow_inf_nan=False, description="seconds")


class RunCancellation(_Body):
    """Which run to cancel, over the WebSocket."""

    run_id: str
