"""Where in the author's files a mistake is, so that whoever starts a worker can go there."""

from __future__ import annotations

import ast
import inspect
import sysconfig
import textwrap
import traceback
from pathlib import Path
from typing import Any

from shared.errors import ConfigurationError


def unsound(cls: type[Any], attribute: str, problem: str) -> ConfigurationError:
    """Returns the error for a class as it must not be.

    Args:
        attribute: the one that is wrong, "" for the class itself.
        problem: what is wrong with it, and the cure.
    """
    name = f"{full_name(cls)}.{attribute}" if attribute else full_name(cls)
    return ConfigurationError(f"{name} {problem}{where_defined(cls, attribute)}")


def full_name(cls: type[Any]) -> str:
    """Returns module and name of a class."""
    return f"{cls.__module__}.{cls.__qualname__}"


def where_defined(cls: type[Any], attribute: str = "") -> str:
    """Returns ` (file, line n)` of a class, or of the line in it that sets an attribute; "" for one without a file."""
    try:
        lines, first = inspect.getsourcelines(cls)
        tree = ast.parse(textwrap.dedent("".join(lines))).body[0]
        file = inspect.getsourcefile(cls)
    except (OSError, TypeError, SyntaxError, IndexError):
        return ""
    found = next((item.lineno for item in getattr(tree, "body", ()) if attribute in _set_by(item)), None)
    return f" ({file}, line {first + (found or tree.lineno) - 1})"


def where_raised(error: BaseException) -> str:
    """Returns ` (file, line n)` of what an import raised: the author's last line, not the library's that it called."""
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({error.filename}, line {error.lineno})"
    # The first frame is that of whoever imports.
    frames = [
        item
        for item in traceback.extract_tb(error.__traceback__)[1:]
        if "importlib" not in item.filename and not item.filename.startswith("<")  # what a dataclass has generated
    ]
    libraries = (str(Path(__file__).parent), *(sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")))
    own = [item for item in frames if not item.filename.startswith(libraries)] or frames[:1]
    return f" ({own[-1].filename}, line {own[-1].lineno})" if own else ""


def _set_by(statement: ast.stmt) -> set[str]:
    """Returns the names that a statement of a class's body sets."""
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return {statement.name}
    return set()
