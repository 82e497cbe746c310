"""The orchestrator against a plain interpretation: random workflows, with failures, cancellations and resumption."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import ConfigurationError
from shared.states import ExecutionState
from tests.parts import DictRecords, DictStore, RecordingBridge, UnboundDatabase, registry_of
from tests.services import a_context
from worker.agentthreads import MAX_AT_ONCE
from worker.authoring import Agent, AgentRun
from worker.core import AgentExecutionResult
from worker.engine import ExecutionEngineFactory, Infrastructure
from worker.orchestrator import StepFailedError
from worker.workflow import Choice, Parallel, Part, Results, Sequence, Step, Workflow


class DiedError(BaseException):
    """Stands for the death of the sandbox: nothing of ours catches it."""


@dataclass
class World:
    """What is to happen in one attempt, and what did. A step's output tells what the step was given to see."""

    failures: Mapping[str, int] = field(default_factory=dict)  # by step: how many of its tries fail
    die_at: str | None = None
    cancel_at: str | None = None
    calls: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    cancel: Callable[[], None] = lambda: None

    async def work(self, run: AgentRun) -> Any:
        step = run.input.model_dump()
        name = step["name"]
        with self.lock:
            self.calls.append(name)
            tries = self.calls.count(name)
        run.emit.progress(0.5)
        await asyncio.sleep(0)
        if self.die_at == name:
            raise DiedError
        if self.cancel_at == name:
            self.cancel()
            while not run.cancelled:  # noqa: ASYNC110 - a plain agent can only look
                await asyncio.sleep(0.001)
        if tries <= self.failures.get(name, 0):
            raise ValueError(f"{name} fails")
        return {"by": name, "saw": step["saw"]}


WORLDS: list[World] = []


class Awaited(Agent):
    """Does a step."""

    name = "awaited"

    async def execute(self, context: Any, run: AgentRun) -> Any:
        return await WORLDS[-1].work(run)


class Plain(Agent):
    """Does a step, blocking a thread."""

    name = "plain"

    def execute(self, context: Any, run: AgentRun) -> Any:
        return asyncio.run(WORLDS[-1].work(run))


# Random workflows


def a_step(draw: st.DrawFn, name: str) -> Step:
    return Step(
        name,
        draw(st.sampled_from(["awaited", "awaited", "plain"])),
        lambda results: {"name": name, "saw": sorted([*results.outputs, *results.errors])},
        on_failure=draw(st.sampled_from(["fail", "continue"])),
        tries=draw(st.integers(1, 3)),
        weight=draw(st.sampled_from([0.5, 1.0, 3.0])),
    )


def by_what_is_there(keys: list[str]) -> Callable[[Results], str]:
    return lambda results: keys[(len(results.outputs) + 2 * len(results.errors)) % len(keys)]


@st.composite
def parts(draw: st.DrawFn) -> Part:
    numbers = itertools.count(1)

    def part(depth: int) -> Part:
        kind = draw(st.sampled_from(["step", "step", "sequence", "parallel", "choice"])) if depth < 3 else "step"
        if kind == "step":
            return a_step(draw, f"s{next(numbers)}")
        if kind == "choice":
            name = f"c{next(numbers)}"
            keys = [f"k{n}" for n in range(draw(st.integers(1, 3)))]
            options = {key: part(depth + 1) if draw(st.integers(0, 3)) else None for key in keys}
            return Choice(name, by_what_is_there(keys), options)
        inner = [part(depth + 1) for _ in range(draw(st.integers(0, 3)))]
        return Sequence(*inner) if kind == "sequence" else Parallel(*inner)

    return part(0)


# The plain interpretation


class StoppedError(Exception):
    """The interpretation ends: with one of these steps."""

    def __init__(self, steps: set[str]) -> None:
        super().__init__(str(steps))
        self.steps = steps


@dataclass
class Plainly:
    """One thing after the other, without anything that can go wrong."""

    failures: Mapping[str, int]
    calls: Counter[str] = field(default_factory=Counter)

    def do(self, part: Part, results: Results) -> Results:
        if isinstance(part, Step):
            return results.adding(self.step(part, results))
        if isinstance(part, Choice):
            chosen = part.options[part.choose(results)]
            return results if chosen is None else self.do(chosen, results)
        if isinstance(part, Sequence):
            for child in part.parts:
                results = self.do(child, results)
            return results
        made, failed = [], set()
        for child in part.parts:
            try:
                made.append(self.do(child, results))
            except StoppedError as stopped:
                failed |= stopped.steps
        if failed:
            raise StoppedError(failed)
        for one in made:
            results = results.adding(one)
        return results

    def step(self, step: Step, results: Results) -> Results:
        failing = self.failures.get(step.name, 0)
        self.calls[step.name] += min(failing + 1, step.tries)
        if failing < step.tries:
            saw = sorted([*results.outputs, *results.errors])
            return Results(None, outputs={step.name: {"by": step.name, "saw": saw}})
        if step.on_failure == "fail":
            raise StoppedError({step.name})
        return Results(None, errors={step.name: {"type": "ValueError", "message": f"{step.name} fails"}})


@dataclass
class Plan:
    """A workflow and how its steps fail."""

    body: Part
    steps: list[Step]
    failures: dict[str, int]

    def expected(self) -> tuple[dict[str, Any] | None, set[str], Counter[str]]:
        """Returns the output, or the steps of which one fails it; and how often each step is done."""
        plainly = Plainly(self.failures)
        try:
            results = plainly.do(self.body, Results({}))
        except StoppedError as stopped:
            return None, stopped.steps, plainly.calls
        return {"outputs": dict(results.outputs), "errors": dict(results.errors)}, set(), plainly.calls


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    body = draw(parts())
    steps = Workflow("w", body).steps()
    chance = st.sampled_from([0, 0, 0, 1, 2, 3])
    return Plan(body, steps, {step.name: draw(chance) for step in steps})


# The real thing


def void(_: object) -> None:
    """Answers nothing."""


@dataclass
class Attempt:
    """One attempt at a run whose agent runs the workflow."""

    records: DictRecords
    more: tuple[type[Agent], ...] = ()
    bridge: RecordingBridge = field(default_factory=RecordingBridge)

    def make(self, body: Part, world: World) -> AgentExecutionResult:
        WORLDS.append(world)
        try:
            return asyncio.run(self._make(body, world))
        finally:
            WORLDS.pop()

    async def _make(self, body: Part, world: World) -> AgentExecutionResult:
        class Root(Agent):
            """Runs the workflow."""

            name = "root"
            workflows = (Workflow("w", body),)

            async def execute(self, context: Any, run: AgentRun) -> Any:
                results = await run.workflows.orchestrate_workflow("w", context, run)
                return {"outputs": dict(results.outputs), "errors": dict(results.errors)}

        registry = registry_of(Root, Awaited, Plain, *self.more)
        parts_ = Infrastructure(registry, UnboundDatabase(), DictStore(), self.records, self.bridge)
        engine = ExecutionEngineFactory(parts_).create_engine(a_context("alice"), recorded=list(self.records.steps))
        task = asyncio.ensure_future(engine.execute("root", {}))
        loop = asyncio.get_running_loop()
        world.cancel = lambda: void(loop.call_soon_threadsafe(task.cancel))
        return await task


def matches(plan: Plan, result: AgentExecutionResult) -> None:
    """Checks a result against the interpretation."""
    output, failing, _ = plan.expected()
    if output is not None:
        assert (result.state, result.output) == (ExecutionState.COMPLETED, output), result.error
        return
    assert result.state is ExecutionState.FAILED
    assert result.error is not None
    assert result.error["type"] == "step_failed"
    assert any(f"step '{name}' " in result.error["message"] for name in failing), (result.error, failing)


@settings(max_examples=150, deadline=None)
@given(plans())
def test_a_workflow_gives_what_its_plain_interpretation_gives(plan: Plan) -> None:
    world, attempt = World(plan.failures), Attempt(DictRecords())
    matches(plan, attempt.make(plan.body, world))
    output, _, calls = plan.expected()
    if output is not None:
        assert Counter(world.calls) == calls
    assert all(count <= calls[name] for name, count in Counter(world.calls).items())
    whole = [data.get("run_fraction", data["fraction"]) for data in attempt.bridge.data("agent_progress")]
    assert whole == sorted(whole)
    if output is not None and calls:
        assert whole[-1] == pytest.approx(1.0)


@settings(max_examples=150, deadline=None)
@given(plans(), st.data())
def test_a_workflow_goes_on_after_any_death_without_doing_recorded_steps_again(plan: Plan, data: st.DataObject) -> None:
    records = DictRecords()
    names = [step.name for step in plan.steps]
    for _ in range(data.draw(st.integers(1, 3)) if names else 0):
        world = World(plan.failures, die_at=data.draw(st.sampled_from(names)))
        before = set(records.steps)
        try:
            matches(plan, Attempt(records).make(plan.body, world))
        except DiedError:
            assert world.die_at in world.calls
        assert not {f"w/{name}" for name in world.calls} & before
    world, before = World(plan.failures), set(records.steps)
    matches(plan, Attempt(records).make(plan.body, world))
    assert not {f"w/{name}" for name in world.calls} & before


@settings(max_examples=100, deadline=None)
@given(plans(), st.data())
def test_a_cancel_ends_all_parts_and_nothing_begins_after_it(plan: Plan, data: st.DataObject) -> None:
    if not plan.steps:
        return
    cancelled = data.draw(st.sampled_from([step.name for step in plan.steps]))
    records, world = DictRecords(), World(plan.failures, cancel_at=cancelled)
    attempt = Attempt(records)
    result = attempt.make(plan.body, world)
    if cancelled not in world.calls:
        matches(plan, result)
        return
    sent = len(attempt.bridge.sent)
    assert f"w/{cancelled}" not in records.steps
    _, _, calls = plan.expected()
    assert set(world.calls) <= set(calls)
    # A sibling's failure may have been first; whichever it was, everything has ended.
    assert result.state in (ExecutionState.CANCELLED, ExecutionState.FAILED)
    started = [agent for kind, agent, *_ in attempt.bridge.sent if kind == "agent_started"]
    ended = [agent for kind, agent, *_ in attempt.bridge.sent if kind in ("agent_completed", "agent_failed")]
    assert sorted(started) == sorted(ended)
    assert len(attempt.bridge.sent) == sent
    # What was recorded until then is taken up, if there is another attempt.
    before = set(records.steps)
    world = World(plan.failures)
    matches(plan, Attempt(records).make(plan.body, world))
    assert not {f"w/{name}" for name in world.calls} & before


# What the random ones do not show


def run_body(
    body: Part, *agents: type[Agent], records: DictRecords | None = None
) -> tuple[AgentExecutionResult, Attempt]:
    attempt = Attempt(records or DictRecords(), more=agents)
    return attempt.make(body, World()), attempt


def doing(agent: str, name: str, **options: Any) -> Step:
    return Step(name, agent, lambda _: {}, **options)


def doing_named(agent: str, name: str) -> Step:
    return Step(name, agent, lambda _: {"name": name, "saw": []})


def test_parallel_parts_are_under_way_at_the_same_time() -> None:
    """As many as there may be, whatever the machine."""
    all_of_them = threading.Barrier(MAX_AT_ONCE)

    class Meet(Agent):
        """Waits for the others."""

        name = "meet"

        def execute(self, context: Any, run: AgentRun) -> Any:
            return all_of_them.wait(timeout=10) >= 0

    body = Parallel(*(doing("meet", f"m{n}") for n in range(MAX_AT_ONCE)))
    result, _ = run_body(body, Meet)
    assert result.output["outputs"] == {f"m{n}": True for n in range(MAX_AT_ONCE)}


def test_plain_parts_that_wait_for_their_turn_do_not_begin_after_a_failure() -> None:
    lock, begun, full = threading.Lock(), [], threading.Event()

    class Fills(Agent):
        """Waits until no further one can begin; then the first one fails, and the others work until cancelled."""

        name = "fills"

        def execute(self, context: Any, run: AgentRun) -> Any:
            with lock:
                begun.append(run)
                number = len(begun)
            if number == MAX_AT_ONCE:
                full.set()
            assert full.wait(10)
            if number == 1:
                raise ValueError("no")
            while not run.cancelled:
                threading.Event().wait(0.001)

    result, attempt = run_body(Parallel(*(doing("fills", f"f{n}") for n in range(MAX_AT_ONCE + 5))), Fills)
    assert result.error is not None
    assert result.error["type"] == "step_failed"
    assert len(begun) <= MAX_AT_ONCE + 1  # one may take the place of the failed part before the workflow knows of it
    assert attempt.records.steps == {}


def test_plain_parts_beyond_the_limit_have_their_turn_and_may_run_workflows_themselves() -> None:
    class Leaf(Agent):
        """Works."""

        name = "leaf"

        def execute(self, context: Any, run: AgentRun) -> Any:
            return 1

    class Branch(Agent):
        """Has others work, and blocks its thread until they have."""

        name = "branch"
        workflows = (Workflow("inner", Parallel(doing("leaf", "a"), doing("leaf", "b"))),)

        def execute(self, context: Any, run: AgentRun) -> Any:
            return sum(asyncio.run(run.workflows.orchestrate_workflow("inner", context, run)).outputs.values())

    count = 2 * MAX_AT_ONCE + 1
    result, _ = run_body(Parallel(*(doing("branch", f"b{n}") for n in range(count))), Leaf, Branch)
    assert result.output["outputs"] == {f"b{n}": 2 for n in range(count)}


def test_a_failure_waits_for_its_plain_sibling_which_sees_that_it_is_cancelled() -> None:
    begun, over = threading.Event(), []

    class Slow(Agent):
        """Works until it is cancelled."""

        name = "slow"

        def execute(self, context: Any, run: AgentRun) -> Any:
            begun.set()
            while not run.cancelled:
                threading.Event().wait(0.001)
            over.append(True)

    class Fails(Agent):
        """Fails when the other has begun."""

        name = "fails"

        def execute(self, context: Any, run: AgentRun) -> Any:
            assert begun.wait(10)
            raise ValueError("no")

    seen: list[bool] = []

    class After(Agent):
        """Looks whether the slow one has ended."""

        name = "after"

        async def execute(self, context: Any, run: AgentRun) -> Any:
            try:
                await run.workflows.orchestrate_workflow("inner", context, run)
            except StepFailedError as error:
                seen.append(bool(over))
                return error.error
            return None

        workflows = (Workflow("inner", Parallel(doing("slow", "a"), doing("fails", "b"))),)

    result, _ = run_body(doing("after", "outer"), Slow, Fails, After)
    assert result.output["outputs"]["outer"] == {"type": "ValueError", "message": "no"}
    assert seen == [True]


def test_the_steps_of_steps_have_names_and_memory_of_their_own() -> None:
    class Leaf(Agent):
        """Records a step and remembers."""

        name = "leaf"

        async def execute(self, context: Any, run: AgentRun) -> Any:
            run.state.update(lambda value: (value or 0) + 1)
            run.emit.progress(0.5)
            return run.state.step("one", lambda: context.depth)

    class Inner(Agent):
        """A workflow inside a workflow."""

        name = "inner"
        workflows = (Workflow("flow", Sequence(doing("leaf", "a"), doing("leaf", "b"))),)

        async def execute(self, context: Any, run: AgentRun) -> Any:
            return dict((await run.workflows.orchestrate_workflow("flow", context, run)).outputs)

    result, attempt = run_body(Sequence(doing("inner", "first"), doing("leaf", "last")), Leaf, Inner)
    assert result.state is ExecutionState.COMPLETED, result.error
    assert set(attempt.records.steps) == {
        "w/first", "w/first/flow/a", "w/first/flow/a/one", "w/first/flow/b", "w/first/flow/b/one", "w/last",
        "w/last/one",
    }  # fmt: skip
    assert attempt.records.states == {("leaf", "thread"): (3, 3)}
    told = [(data.get("step"), data.get("run_fraction")) for data in attempt.bridge.data("agent_progress")]
    assert told == [
        ("first/a", 0.125), ("first", 0.25), ("first/b", 0.375), ("first", 0.5), (None, None), ("last", 0.75),
        (None, None),
    ]  # fmt: skip


def test_what_was_chosen_stays_chosen() -> None:
    answers = iter(["left", "right"])
    body = Choice(
        "c", lambda _: next(answers), {"left": doing_named("awaited", "a"), "right": doing_named("awaited", "b")}
    )
    attempt = Attempt(DictRecords())
    with pytest.raises(DiedError):
        attempt.make(body, World(die_at="a"))
    result = attempt.make(body, World())
    assert list(result.output["outputs"]) == ["a"]


def test_a_step_cannot_change_what_others_are_given() -> None:
    class Change(Agent):
        """Changes its input."""

        name = "change"

        async def execute(self, context: Any, run: AgentRun) -> Any:
            run.input.given["list"].append(1)
            return run.input.given

    body = Sequence(
        Step("a", "change", lambda _: {"given": {"list": []}}),
        Step("b", "change", lambda results: {"given": results["a"]}),
        Step("c", "change", lambda results: {"given": results["a"]}),
    )
    result, _ = run_body(body, Change)
    assert result.output["outputs"] == {"a": {"list": [1]}, "b": {"list": [1, 1]}, "c": {"list": [1, 1]}}


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (
            Step("a", "awaited", lambda results: {"x": results["gone"]}),
            "step_failed",
            "step 'gone' has no output here; there are: none",
        ),
        (Step("a", "awaited", lambda _: {"x": {1}}), "step_failed", "input.x holds a set"),
        (Choice("c", lambda _: "z", {"x": None, "y": None}), "invalid", "choice 'c' chose 'z'; there are: 'x', 'y'"),
    ],
)
def test_a_mistake_in_a_declaration_is_named(body: Part, kind: str, message: str) -> None:
    result, _ = run_body(body)
    assert result.error is not None
    assert (result.error["type"], message in result.error["message"]) == (kind, True), result.error


def a_flow(name: str, **options: Any) -> Workflow:
    return Workflow("w", Step(name, "awaited", lambda _: {}, **options))


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: a_flow("a/b"), "the name of a step must be 1 to 64 letters"),
        (lambda: a_flow("a", tries=0), "tries must be a whole number from 1 to 10"),
        (lambda: a_flow("a", weight=0), "weight must be a number above 0"),
        (lambda: a_flow("a", on_failure="stop"), "on_failure must be 'fail' or 'continue'"),
        (lambda: Workflow("w", Sequence(doing("x", "a"), Parallel(doing("y", "a")))), "several parts called a"),
        (lambda: Workflow("w", Sequence("a")), "'a' is not a Step"),  # type: ignore[arg-type]
        (lambda: Choice("c", lambda _: "x", {}), "choice 'c' has no options"),
    ],
)
def test_a_malformed_workflow_is_refused_when_it_is_declared(declare: Callable[[], Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        declare()


@pytest.mark.parametrize("name", ["Other", "w"])
def test_only_own_workflows_and_each_once(name: str) -> None:
    second = name

    class Twice(Agent):
        """Runs one of its workflows after the other."""

        name = "twice"
        workflows = (Workflow("w", Sequence()),)

        async def execute(self, context: Any, run: AgentRun) -> Any:
            await run.workflows.orchestrate_workflow("w", context, run)
            await run.workflows.orchestrate_workflow(second, context, run)

    result, _ = run_body(doing("twice", "a"), Twice)
    assert result.error is not None
    assert (
        "no workflow of this agent is called 'Other'; there are: w" if name == "Other" else "was run already"
    ) in result.error["message"]


def test_a_registry_refuses_workflows_that_cannot_work() -> None:
    class Lost(Agent):
        """Names an agent that is not there."""

        name = "lost"
        workflows = (Workflow("w", doing("awaitd", "a")),)

        async def execute(self, context: Any, run: AgentRun) -> Any: ...

    class Round(Agent):
        """Leads back to itself."""

        name = "round"
        workflows = (Workflow("w", doing("round", "a")),)

        async def execute(self, context: Any, run: AgentRun) -> Any: ...

    with pytest.raises(
        ConfigurationError, match=r"Lost.workflows .*no agent is called 'awaitd'; did you mean 'awaited'"
    ):
        registry_of(Lost, Awaited)
    with pytest.raises(ConfigurationError, match=r"Round.workflows lead in a circle: round → round \(.*, line \d+\)"):
        registry_of(Round)
