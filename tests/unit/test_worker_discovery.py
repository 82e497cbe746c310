from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from shared.errors import ConfigurationError
from worker.discovery import load_agents

AGENT = '''
from lanewise import Agent

class {cls}(Agent):
    """Made for a test."""
    name = "{name}"
    async def execute(self, context, run):
        return {{}}
'''

Write = Callable[[str, str], Path]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder on the path; what is imported from it is forgotten again."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def write(folder: Path) -> Write:
    def write(name: str, text: str) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return write


def agent(name: str, cls: str = "Made") -> str:
    return AGENT.format(name=name, cls=cls)


def install(write: Write, entry_points: str, dist: str = "seen_pack", group: str = "lanewise.agents") -> None:
    """Lays down what pip leaves of an installed distribution."""
    write(f"{dist}-9.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {dist}\nVersion: 9.0\n")
    write(f"{dist}-9.0.dist-info/entry_points.txt", f"[{group}]\n{entry_points}\n")


def refused(*names: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_agents(names)
    return caught.value.message


# Found


def test_all_agents_that_a_module_defines(write: Write) -> None:
    write("seen_two.py", agent("first", "First") + agent("second", "Second"))
    write("seen_import.py", "from seen_two import First\n" + agent("third"))
    registry, notes, _ = load_agents(["seen_two"])
    assert {"first", "second"} <= set(registry.names())
    assert notes == []
    assert "first" not in load_agents(["seen_import"])[0].names()  # imported there, defined elsewhere


def test_one_class_of_a_module(write: Write) -> None:
    write("seen_pack/__init__.py", "")
    write("seen_pack/inner.py", agent("first", "First") + agent("second", "Second"))
    names = load_agents(["seen_pack.inner:Second"])[0].names()
    assert "second" in names
    assert "first" not in names


def test_the_entry_points_of_installed_packages(write: Write) -> None:
    write("seen_pack.py", agent("first", "First") + agent("second", "Second"))
    install(write, "any = seen_pack:First")
    names = load_agents([])[0].names()
    assert "first" in names
    assert "second" not in names


def test_entry_points_of_other_groups_are_none_of_ours(write: Write) -> None:
    write("seen_pack.py", "raise RuntimeError")
    install(write, "any = seen_pack:First", group="console_scripts")
    load_agents([])


def test_an_agent_named_twice_is_there_once(write: Write) -> None:
    write("seen_pack.py", agent("first", "First"))
    install(write, "any = seen_pack:First")
    assert load_agents(["seen_pack", "seen_pack:First"])[0].names().count("first") == 1


def test_the_registry_is_frozen() -> None:
    registry = load_agents([]).registry
    with pytest.raises(ConfigurationError, match="frozen"):
        registry.register(registry.get(registry.names()[0]))


# Refused, by name, with file and line


def test_a_module_that_is_not_there() -> None:
    assert re.search(
        r"cannot import seen_nowhere: ModuleNotFoundError: No module named 'seen_nowhere'", refused("seen_nowhere")
    )


def test_a_class_that_is_not_there(write: Write) -> None:
    path = write("seen_one.py", agent("first", "First"))
    assert refused("seen_one:Second") == f"seen_one:Second: {path} defines no 'Second'"


def test_a_module_without_agents(write: Write) -> None:
    path = write("seen_none.py", "from lanewise import Agent\n")
    assert refused("seen_none") == f"seen_none: {path} defines no subclass of lanewise.Agent"


def test_what_is_named_is_an_agent(write: Write) -> None:
    write("seen_other.py", "Thing = 5\nclass Other: ...\n")
    assert "is not a subclass of Agent" in refused("seen_other:Other")
    assert "is not a subclass of Agent" in refused("seen_other:Thing")


def test_a_syntax_error(write: Write) -> None:
    path = write("seen_syntax.py", "x = 1\ndef broken(:\n    pass\n")
    message = refused("seen_syntax")
    assert message.startswith("cannot import seen_syntax: SyntaxError: ")
    assert f"({path}, line 2)" in message


def test_an_import_error_deeper_inside(write: Write) -> None:
    write("seen_outer.py", "import seen_inner\n")
    path = write("seen_inner.py", "\n\nimport seen_nowhere\n")
    message = refused("seen_outer")
    assert "cannot import seen_outer: ModuleNotFoundError: No module named 'seen_nowhere'" in message
    assert f"({path}, line 3)" in message


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("raise KeyError('x')", "KeyError: 'x'"),
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("from lanewise import Nothing", "ImportError: cannot import name 'Nothing'"),
        ("import sys; sys.exit(3)", "SystemExit: 3"),
    ],
)
def test_an_exception_at_import(write: Write, statement: str, said: str) -> None:
    path = write("seen_raising.py", f"x = 1\n{statement}\n")
    message = refused("seen_raising")
    assert message.startswith(f"cannot import seen_raising: {said}")
    assert f"({path}, line 2)" in message


def test_a_module_that_leaves_a_thread_running(write: Write) -> None:
    write(
        "seen_threads.py",
        "import threading\nSTOP = threading.Event()\n"
        "threading.Thread(target=STOP.wait, args=(30,), daemon=True).start()\n" + agent("first"),
    )
    try:
        message = refused("seen_threads")
    finally:
        sys.modules["seen_threads"].STOP.set()
    assert message.startswith("importing seen_threads left a thread running")


def test_a_thread_that_ended_with_the_import_is_fine(write: Write) -> None:
    write(
        "seen_thread.py",
        "import threading\nt = threading.Thread(target=print)\nt.start()\nt.join()\n" + agent("first"),
    )
    assert "first" in load_agents(["seen_thread"])[0].names()


def test_an_unsound_agent_and_two_of_one_name(write: Write) -> None:
    path = write("seen_state.py", agent("first") + "    cache = {}\n")
    message = refused("seen_state")
    assert message.startswith("seen_state.Made.cache is a dict on the class")
    assert message.endswith(f" ({path}, line 9)")
    first, second = write("seen_a.py", agent("first")), write("seen_b.py", agent("first"))
    assert refused("seen_a", "seen_b") == (
        f"two agents are called 'first': seen_a.Made ({first}, line 6) and seen_b.Made ({second}, line 6): rename one"
    )


# Extras


def test_a_built_in_agent_whose_extra_is_missing_is_left_out_with_a_note(write: Write) -> None:
    write("seen_builtin.py", "import seen_nowhere\n" + agent("first"))
    install(write, "data = seen_builtin:Made", dist="lanewise")
    registry, notes, _ = load_agents([])
    assert registry.names() == []
    (note,) = notes
    assert note.startswith("agent 'data' is left out: install lanewise[data] for it")
    assert "No module named 'seen_nowhere'" in note


def test_the_data_agent_without_duckdb(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("duckdb", "worker.agents.", "worker.tools."))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    registry, notes, _ = load_agents([])
    assert "data" not in registry.names()
    assert notes
    assert [note for note in notes if "install lanewise[data]" not in note] == []  # others are built upon it


def test_another_built_in_failure_is_not_passed_over(write: Write) -> None:
    write("seen_builtin.py", "raise KeyError\n")
    install(write, "data = seen_builtin:Made", dist="lanewise")
    assert "cannot import seen_builtin: KeyError" in refused()


def test_what_is_missing_for_somebody_elses_agent_stops_the_start(write: Write) -> None:
    write("seen_pack.py", "import seen_nowhere\n" + agent("first"))
    install(write, "data = seen_pack:Made")
    assert "cannot import seen_pack: ModuleNotFoundError: No module named 'seen_nowhere'" in refused()
