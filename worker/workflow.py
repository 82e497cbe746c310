"""Workflows as declarations: which agents work in which order, on what, and what happens when one fails.

    Workflow("answer", Sequence(
        Step("plan", "triage", input=lambda results: {"request": results.input["request"]}),
        Parallel(
            Step("figures", "data", input=lambda results: results["plan"]["sql"], on_failure="continue"),
            Step("sources", "research", input=lambda results: results["plan"]["question"], on_failure="continue"),
        ),
        Step("paper", "report", input=lambda results: {"figures": results.get("figures"), …}),
    ))

Nothing here runs anything; `worker/orchestrator.py` does.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Literal

from shared.errors import ConfigurationError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
MAX_TRIES = 10


@dataclass(frozen=True)
class Results:
    """What a workflow was given and what its steps have made so far; each part sees what was finished before it began.

    Args:
        input: of the workflow.
        outputs: of the steps that are done, by name.
        errors: `{"type", "message"}` of the steps that failed and were passed over, by name.
    """

    input: Any
    outputs: Mapping[str, Any] = field(default_factory=dict)
    errors: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    def __getitem__(self, step: str) -> Any:
        """Returns the output of a step.

        Raises:
            KeyError: it has none: it failed, was not chosen, or comes later.
        """
        if step not in self.outputs:
            raise KeyError(f"step {step!r} has no output here; there are: {', '.join(self.outputs) or 'none'}")
        return self.outputs[step]

    def get(self, step: str, default: Any = None) -> Any:
        """Returns the output of a step, or the default if it has none."""
        return self.outputs.get(step, default)

    def adding(self, other: Results) -> Results:
        """Returns these and those of the other."""
        return replace(self, outputs={**self.outputs, **other.outputs}, errors={**self.errors, **other.errors})


@dataclass(frozen=True)
class Step:
    """One agent's work.

    Args:
        name: unique in the workflow; the result's name.
        agent: name of the agent that does it.
        input: makes the agent's input of the results so far; called once, when the step begins.
        on_failure: `fail` ends the workflow; `continue` goes on without an output.
        tries: how often the agent is run until it does not fail.
        weight: share of the workflow's progress, beside the other steps' weights.
    """

    name: str
    agent: str
    input: Callable[[Results], Any]
    on_failure: Literal["fail", "continue"] = "fail"
    tries: int = 1
    weight: float = 1.0

    def __post_init__(self) -> None:
        _check_name("step", self.name)
        _check_name("agent", self.agent)
        if self.on_failure not in ("fail", "continue"):
            raise ConfigurationError(f"step {self.name!r}: on_failure must be 'fail' or 'continue'")
        if not (isinstance(self.tries, int) and 1 <= self.tries <= MAX_TRIES):
            raise ConfigurationError(f"step {self.name!r}: tries must be a whole number from 1 to {MAX_TRIES}")
        if not 0 < self.weight < float("inf"):
            raise ConfigurationError(f"step {self.name!r}: weight must be a number above 0")


@dataclass(frozen=True, init=False)
class Sequence:
    """Parts one after the other."""

    parts: tuple[Part, ...]

    def __init__(self, *parts: Part) -> None:
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True, init=False)
class Parallel:
    """Parts at the same time; none sees what the others make. The first that fails ends the others."""

    parts: tuple[Part, ...]

    def __init__(self, *parts: Part) -> None:
        object.__setattr__(self, "parts", parts)


@dataclass(frozen=True)
class Choice:
    """One of several parts, chosen by what was found so far.

    Args:
        name: unique in the workflow; what was chosen is recorded under it.
        choose: returns a key of `options`; called once.
        options: the parts to choose from; None: nothing is to be done.
    """

    name: str
    choose: Callable[[Results], str]
    options: Mapping[str, Part | None]

    def __post_init__(self) -> None:
        _check_name("choice", self.name)
        if not self.options:
            raise ConfigurationError(f"choice {self.name!r} has no options")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))


Part = Step | Sequence | Parallel | Choice


@dataclass(frozen=True)
class Workflow:
    """A named whole.

    Raises:
        ConfigurationError: two steps or choices of one name, or a malformed part; when it is declared.
    """

    name: str
    body: Part

    def __post_init__(self) -> None:
        _check_name("workflow", self.name)
        names = Counter(part.name for part in parts_of(self.body) if isinstance(part, Step | Choice))
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            raise ConfigurationError(f"workflow {self.name!r} has several parts called {', '.join(twice)}")

    def steps(self) -> list[Step]:
        """Returns its steps, in the order of their declaration."""
        return [part for part in parts_of(self.body) if isinstance(part, Step)]


def parts_of(part: Part) -> Iterator[Part]:
    """Yields a part and all parts in it.

    Raises:
        ConfigurationError: one of them is none.
    """
    if not isinstance(part, Step | Sequence | Parallel | Choice):
        raise ConfigurationError(f"{part!r} is not a Step, Sequence, Parallel or Choice")
    yield part
    inner = part.options.values() if isinstance(part, Choice) else () if isinstance(part, Step) else part.parts
    for child in inner:
        if child is not None:
            yield from parts_of(child)


def _check_name(kind: str, name: str) -> None:
    if not (isinstance(name, str) and NAME.fullmatch(name)):
        raise ConfigurationError(f"the name of a {kind} must be 1 to 64 letters, digits, '-' or '_', not {name!r}")
