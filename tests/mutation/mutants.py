"""Mutants: copies of a file with one small mistake each, of the kinds that people make."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_OPPOSITE: dict[type[ast.AST], tuple[type[ast.AST], ...]] = {
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,),
    ast.Mod: (ast.Mult,), ast.BitOr: (ast.BitAnd,), ast.BitAnd: (ast.BitOr,), ast.And: (ast.Or,), ast.Or: (ast.And,),
}  # fmt: skip

# What scripts are changed by: a pattern, and what each of its matches becomes.
_NUMBER = r"(?<![\w.\[%])\d+(?![\w.])"
_LUA = (
    (r"==", "~="), (r"~=", "=="), (r" < ", " <= "), (r" < ", " >= "), (r" > ", " >= "), (r" > ", " <= "),
    (r"\bor\b", "and"), (r"\band\b", "or"), (r"\bnot ", ""), (r" \+ ", " - "), (r" / ", " * "), (r" \* ", " / "),
    (_NUMBER, "+1"), (r"'\+inf'", "'-inf'"), (r"'-inf'", "'+inf'"), (r"'\(\+inf'", "'+inf'"), (r"'ready'", "'rEady'"),
    (r"'doubt:'", "'doubtful:'"), (r"(?m)^ *(redis\.call|answer\[|missing\[|if .* end$|return ).*$", ""),
)  # fmt: skip
_SQL = (
    (r"<>", "="), (r"(?<=[^:]) = ", " <> "), (r" < ", " <= "), (r" < ", " > "), (r"\bAND\b", "OR"), (r"\bOR\b", "AND"),
    (r"\bIS NULL\b", "IS NOT NULL"), (r"\bIF NOT\b", "IF"), (_NUMBER, "+1"), (r"\btrue\b", "false"),
    (r"SECURITY DEFINER", "SECURITY INVOKER"), (r" SET search_path = [^$]*(?= AS)", ""), (r"\bsha256\(", "("),
    (r"(?<=WHERE )\w+ = \S+ AND ", ""), (r" AND [^=\n]+ = \S+", ""), (r" OR [^\n]*(?= THEN)", ""),
    (r"'running'", "'queued'"),
    (r"outer_pad \|\| ", ""), (r"inner_pad \|\| ", ""), (r"(?m)^ *(PERFORM set_config|RETURN NULL).*$", ""),
    (r"CASE WHEN present THEN claimed END", "claimed"),
)  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """A file with one mistake.

    Args:
        line: where it is, from 1.
        was: the changed lines as they were, in one line.
        now: the same as they are now; empty if they are gone.
        text: the whole of the file.
    """

    file: str
    line: int
    was: str
    now: str
    text: str

    @property
    def name(self) -> str:
        """What it is known by, wherever the lines move to."""
        return name_of(self.was, self.now)


def name_of(was: str, now: str) -> str:
    """Returns the name of a mutant."""
    return f"{was}  →  {now}"


def mutants_of(file: str) -> list[Mutant]:
    """Returns all mutants of a file, in its order, each once."""
    text = Path(file).read_text()
    changes = _python(text) if file.endswith(".py") else _script(text, _LUA if file.endswith(".lua") else _SQL)
    found = (_mutant(file, text, *change) for change in sorted(set(changes)))
    return list({mutant.text: mutant for mutant in found if mutant.text != text}.values())


def _mutant(file: str, text: str, start: int, end: int, new: str) -> Mutant:
    changed = text[:start] + new + text[end:]
    first = text.rfind("\n", 0, start) + 1
    last = text.find("\n", end)
    was = " ".join(text[first:last].split())
    now = " ".join(changed[first : last + len(changed) - len(text)].split())
    return Mutant(file, text.count("\n", 0, start) + 1, was, now, changed)


def _script(text: str, rules: Sequence[tuple[str, str]]) -> Iterator[tuple[int, int, str]]:
    code = re.sub(r"--.*", lambda comment: " " * len(comment[0]), text)
    for pattern, new in rules:
        for match in re.finditer(pattern, code):
            yield (*match.span(), str(int(match[0]) + 1) if new == "+1" else new)


def _python(text: str) -> Iterator[tuple[int, int, str]]:
    starts = [0]
    for line in text.encode().splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def place(line: int, column: int) -> int:
        return len(text.encode()[: starts[line - 1] + column].decode())  # the parser counts bytes

    for node, new in _changes(ast.parse(text)):
        assert isinstance(node, ast.expr | ast.stmt | ast.keyword | ast.excepthandler)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        yield place(node.lineno, node.col_offset), place(node.end_lineno, node.end_col_offset), new


def _changes(tree: ast.AST) -> Iterator[tuple[ast.AST, str]]:  # noqa: C901, PLR0912 - one kind of mistake a case
    """Yields nodes with the source to replace each by."""
    for node in _code(tree):
        match node:
            case ast.Compare(left, operators, values):
                for n, operator in enumerate(operators):
                    for other in _OPPOSITE[type(operator)]:
                        changed = [*operators[:n], other(), *operators[n + 1 :]]
                        yield node, _source(ast.Compare(left, changed, values))  # type: ignore[arg-type]
            case ast.BoolOp(operator, values):
                (other,) = _OPPOSITE[type(operator)]
                yield node, _source(ast.BoolOp(other(), values))  # type: ignore[arg-type]
                for n in range(len(values)):
                    rest = [*values[:n], *values[n + 1 :]]
                    yield node, _source(rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest))
            case ast.UnaryOp(ast.Not(), operand):
                yield node, _source(operand)
            case ast.BinOp(left, operator, right) if type(operator) in _OPPOSITE:
                (other,) = _OPPOSITE[type(operator)]
                yield node, _source(ast.BinOp(left, other(), right))  # type: ignore[arg-type]
            case ast.If(test) | ast.While(test) | ast.IfExp(test) if not isinstance(test, ast.UnaryOp):
                yield test, _source(ast.UnaryOp(ast.Not(), test))
            case ast.Constant(bool(value)):
                yield node, str(not value)
            case ast.Constant(int(value) | float(value)):
                yield node, str(value + 1)
            case ast.Constant(str(value)) if " " not in value:  # one with a space is for people
                yield node, repr(f"{value}_")
            case ast.JoinedStr() if " " not in _source(node):
                yield node, _source(ast.BinOp(node, ast.Add(), ast.Constant("_")))
            case ast.Tuple(ctx=ast.Store()):
                continue  # what a value is unpacked into
            case ast.Tuple(elements) | ast.List(elements) | ast.Set(elements) if len(elements) > 1:
                for n in range(len(elements)):
                    rest = [*elements[:n], *elements[n + 1 :]]
                    yield (
                        node,
                        _source(
                            type(node)(rest, ast.Load()) if isinstance(node, ast.Tuple | ast.List) else ast.Set(rest)
                        ),
                    )
            case ast.Call(function, arguments, keywords):
                for n in range(len(keywords)):
                    yield node, _source(ast.Call(function, arguments, [*keywords[:n], *keywords[n + 1 :]]))
            case ast.Return(ast.expr() as value) if not isinstance(value, ast.Constant):
                yield value, "None"
            case ast.Expr(ast.Call() | ast.Yield() | ast.Await()) | ast.Raise() | ast.AugAssign() | ast.Delete():
                yield node, "pass"
            case ast.Continue():
                yield node, "break"
            case ast.Break():
                yield node, "continue"


def _code(tree: ast.AST) -> Iterator[ast.AST]:
    """Walks what runs: no docstrings, annotations, imports or log lines, nothing below a text with values in it."""
    yield tree
    for name, value in ast.iter_fields(tree):
        if name in {"annotation", "returns", "type_comment"} or isinstance(tree, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_left_out(child):
                yield from _code(child)


def _is_left_out(node: ast.AST) -> bool:
    match node:
        case ast.Import() | ast.ImportFrom() | ast.Expr(ast.Constant(str())):
            return True
        case ast.Expr(ast.Call(ast.Attribute(ast.Name("log")))):
            return True
        case ast.Assign([ast.Name("__all__")]) | ast.If(ast.Name("TYPE_CHECKING")):
            return True
    return False


def _source(node: ast.AST) -> str:
    text = ast.unparse(node)
    return f"({text})" if isinstance(node, ast.expr) and not isinstance(node, ast.Call | ast.Constant) else text
