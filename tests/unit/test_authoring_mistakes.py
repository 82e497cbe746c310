"""What is wrong with an author's module is said with its file, its line and the cure."""

from __future__ import annotations

import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from worker.discovery import load_agents

HEAD = """\
import functools
import json

from lanewise import Agent, Step, Tool, Workflow
from pydantic import BaseModel
"""
# `# here` marks the line that the message has to name.
AGENT = 'class A(Agent):\n    """A."""\n    name = "seen-a"\n'
EXECUTE = "    def execute(self, context, run): ...\n"
NO_SCHEMA = 'class I(BaseModel):\n    model_config = {"arbitrary_types_allowed": True}\n    x: Step\n'
TOOL = 'class T(Tool):\n    """T."""\n    name = "t"\n    permission = "all"  # here\n    def run(self, c, p): ...\n'
MISTAKES = {
    "no name": ("has no name: give it one", f'class A(Agent):  # here\n    """A."""\n{EXECUTE}'),
    "bad name": ("A.name must be 1 to 64", f'class A(Agent):\n    """A."""\n    name = "a b"  # here\n{EXECUTE}'),
    "no docstring": ("has no docstring: it is", f'class A(Agent):  # here\n    name = "a"\n{EXECUTE}'),
    "no execute": ("has no execute(self, context, run)", AGENT.replace(":\n", ":  # here\n", 1)),
    "arguments": ("A.execute must take (self, context, run)", f"{AGENT}    def execute(self, run): ...  # here\n"),
    "no model": ("A.Input must be a pydantic model", f"{AGENT}    Input: type = dict  # here\n{EXECUTE}"),
    "no schema": ("A.Input has no JSON Schema", f"{NO_SCHEMA}{AGENT}    Input = I  # here\n{EXECUTE}"),
    "inherited": (
        "Base.cache is a dict on the class",
        f"class Base(Agent):\n    cache = {{}}  # here\n{AGENT.replace('(Agent)', '(Base)')}{EXECUTE}",
    ),
    "indented": (
        "A.seen is a list on the class",
        f"if True:\n{textwrap.indent(f'{AGENT}    seen = []  # here{chr(10)}{EXECUTE}', '    ')}",
    ),
    "limit": ("A.time_limit_s must be a number of seconds", f"{AGENT}    time_limit_s = 0  # here\n{EXECUTE}"),
    "tools": ("A.tools has 't', which is not a subclass of Tool", f'{AGENT}    tools = ("t",)  # here\n{EXECUTE}'),
    "permission": ("T.permission must be 'open' or 'granted'", f"{TOOL}{AGENT}    tools = (T,)\n{EXECUTE}"),
    "workflow": (
        "A.workflows has a step for an agent that is not there: no agent is called 'seen-b'; did you mean 'seen-a'?",
        f'{AGENT}    workflows = (Workflow("w", Step("s", "seen-b", dict)),)  # here\n{EXECUTE}',
    ),
    "declaration": ("the name of a step must be", 'W = Workflow("w", Step("s t", "a", dict))  # here\n'),
    "library": ("JSONDecodeError: Expecting value: line 1 column 1 (char 0)", 'json.loads("")  # here\n'),
    "deeper": (
        "ZeroDivisionError: division by zero",
        "def divide():\n    return 1 / 0  # here\nfunctools.reduce(lambda a, b: divide(), [1, 2])\n",
    ),
    "long message": (
        "PydanticSchemaGenerationError: Unable to generate pydantic-core schema",
        "class I(BaseModel):  # here\n    x: Step | Tool | Agent | functools.partial\n",
    ),
    "syntax": ("SyntaxError: '(' was never closed", "print(  # here\n"),
}

Write = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into a folder on the path; what was imported from there is forgotten again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str, text: str) -> Path:
        (tmp_path / name).write_text(text)
        return tmp_path / name

    yield write
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def refused(*names: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_agents(names)
    return caught.value.message


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_said_with_its_line(write: Write, mistake: str) -> None:
    said, body = MISTAKES[mistake]
    text = HEAD + body
    path = write("seen_mistake.py", text)
    (line,) = [number for number, line in enumerate(text.splitlines(), 1) if line.endswith("# here")]
    message = refused("seen_mistake")
    assert said in message
    assert message.endswith(f" ({path}, line {line})")
    assert "\n" not in message


def test_in_an_installed_package_too(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sysconfig.get_path
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path) if name == "purelib" else before(name))
    path = write("seen_installed.py", 'import json\njson.loads("")\n')
    assert refused("seen_installed").endswith(f"({path}, line 2)")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("seen_agent", "; did you mean 'seen_agents'?"),
        ("seen_agents:Cuont", "defines no 'Cuont'; did you mean 'Count'?"),
        ("seen_agents.Count", "; a class in a module is named as seen_agents:Count"),
        ("zzz_nowhere", ": install its package, start in its folder, or put that on PYTHONPATH"),
    ],
)
def test_a_name_that_is_not_there(write: Write, name: str, said: str) -> None:
    write(
        "seen_agents.py", f'{HEAD}class Count(Agent):\n    """C."""\n    name = "c"\n    def execute(self, c, r): ...\n'
    )
    assert refused(name).endswith(said)


def test_the_thread_that_an_import_leaves_is_named(write: Write) -> None:
    path = write(
        "seen_threads.py",
        "import threading\nSTOP = threading.Event()\n"
        "threading.Thread(target=STOP.wait, args=(30,), name='my-poller', daemon=True).start()\n",
    )
    try:
        message = refused("seen_threads")
    finally:
        sys.modules["seen_threads"].STOP.set()
    assert f"left a thread running: my-poller ({path})" in message


def test_what_each_name_stands_for(write: Write) -> None:
    agent = 'class {0}(Agent):\n    """A."""\n    name = "{1}"\n    def execute(self, c, r): ...\n'
    write("seen_agents.py", HEAD + agent.format("A", "seen-a") + agent.format("B", "seen-b"))
    assert load_agents(["seen_agents", " seen_agents:B"]).named == {
        "seen_agents": {"seen-a": "A", "seen-b": "B"}, "seen_agents:B": {"seen-b": "B"},
    }  # fmt: skip


def test_a_base_class_of_others_is_no_agent(write: Write) -> None:
    base = f'class Base(Agent):\n    """B."""\n{EXECUTE}'
    write("seen_base.py", f"{HEAD}{base}{AGENT.replace('(Agent)', '(Base)')}")
    assert load_agents(["seen_base"]).named == {"seen_base": {"seen-a": "A"}}
