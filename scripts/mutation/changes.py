"""Changing one expression or statement of a source at a time."""

import ast
import copy
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}
_GUARDS = {"dataclass": ("frozen", "kw_only", "slots"), "zip": ("strict",)}
"""Arguments that keep a programmer from a mistake: a right program does the same without them."""
_NAMES = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """A change to a file."""

    file: str
    line: int
    column: int
    before: str
    after: str
    tree: ast.Module
    """The file, changed; its lines have their numbers."""
    function: int | None
    """First line of the function whose body it changes, decorators included."""


def mutants(text: str, file: str, most: int, seed: int) -> list[Mutant]:
    """Return changes of one expression or statement each, drawn by the seed, in order of lines."""
    tree = ast.parse(text)
    places = list(_places(tree))
    all_of_them = [(n, k) for n, place in enumerate(places) for k in range(len(_changes(place)))]
    drawn = random.Random(f"{seed} {file}").sample(all_of_them, min(most, len(all_of_them)))
    return [_mutant(tree, file, *one) for one in sorted(drawn)]


def _mutant(tree: ast.Module, file: str, number: int, kind: int) -> Mutant:
    tree = copy.deepcopy(tree)
    node = list(_places(tree))[number]
    by = _changes(node)[kind]
    before, line = ast.unparse(node), getattr(node, "lineno", 0)
    column = getattr(node, "col_offset", 0)
    function = _function_around(tree, node)
    ast.fix_missing_locations(_Replace(node, ast.copy_location(by, node)).visit(tree))
    return Mutant(file, line, column, _short(before), _short(ast.unparse(by)), tree, function)


def _function_around(tree: ast.AST, node: ast.AST) -> int | None:
    """Find the outermost function that has a node in its body."""
    for outer in ast.walk(tree):  # breadth first
        if isinstance(outer, ast.FunctionDef) and any(
            inner is node for statement in outer.body for inner in ast.walk(statement)
        ):
            return min([outer.lineno, *(d.lineno for d in outer.decorator_list)])
    return None


def _short(text: str) -> str:
    line = text.partition("\n")[0]
    return line if len(line) < 120 else f"{line[:117]}..."


def _places(tree: ast.AST) -> Iterator[ast.AST]:
    """Walk what is computed: no docstring, annotation, guard or message of an error."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "type_params") or isinstance(tree, ast.Assert):
            continue
        for node in value if isinstance(value, list) else [value]:
            if not isinstance(node, ast.AST) or _is_text(node) or _is_for_types(node):
                continue
            if isinstance(tree, ast.Call) and _is_guard(tree, node):
                continue
            yield node
            if not isinstance(node, ast.Raise):
                yield from _places(node)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    )


def _is_guard(call: ast.Call, node: ast.AST) -> bool:
    return isinstance(node, ast.keyword) and node.arg in _GUARDS.get(ast.unparse(call.func), ())


def _is_for_types(node: ast.AST) -> bool:
    if isinstance(node, ast.If):
        return ast.unparse(node.test) == "TYPE_CHECKING"
    if isinstance(node, ast.Assign):
        value = ast.unparse(node.value)
        return value.startswith(("Literal[", "TypeVar(", "Callable["))
    return isinstance(node, ast.Import | ast.ImportFrom)


def _changes(node: Any) -> list[ast.AST]:
    """Return what a node may be changed to."""
    match node:
        case ast.Compare(ops=ops):
            return [
                _with(node, ops=[*ops[:n], _COMPARED[type(op)](), *ops[n + 1 :]])
                for n, op in enumerate(ops)
            ]
        case ast.AugAssign(op=op):
            return [_with(node, op=_COMPUTED[type(op)]()), ast.Pass()]
        case ast.BinOp(op=op) if type(op) in _COMPUTED:
            return [_with(node, op=_COMPUTED[type(op)]())]
        case ast.BoolOp(op=op):
            return [_with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())]
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            return [node.operand]
        case ast.Constant(value=bool(value)):
            return [ast.Constant(not value)]
        case ast.Constant(value=int(value)):
            return [ast.Constant(value + 1), ast.Constant(value - 1)]
        case ast.Constant(value=float(value)):
            return [ast.Constant(value * 2 or 1.0)]
        case ast.IfExp():
            return [_with(node, body=node.orelse, orelse=node.body)]
        case ast.If() | ast.While():
            return [_with(node, test=ast.UnaryOp(ast.Not(), node.test))]
        case ast.Return(value=value) if value is not None:
            return [] if ast.unparse(value) == "None" else [ast.Return(ast.Constant(None))]
        case ast.Expr(value=ast.Call()) | ast.Raise() | ast.Delete():
            return [ast.Pass()]
        case ast.Break():
            return [ast.Continue()]
        case ast.Continue():
            return [ast.Break()]
        case ast.Name(id=name) if name in _NAMES:
            return [ast.Name(_NAMES[name], ast.Load())]
        case ast.Call(keywords=keywords):
            numbers = [n for n, one in enumerate(keywords) if not _is_guard(node, one)]
            return [_with(node, keywords=keywords[:n] + keywords[n + 1 :]) for n in numbers]
    return []


def _with(node: Any, **fields: Any) -> Any:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


class _Replace(ast.NodeTransformer):
    def __init__(self, node: ast.AST, by: ast.AST) -> None:
        self.node, self.by = node, by

    def visit(self, node: ast.AST) -> ast.AST:
        return self.by if node is self.node else self.generic_visit(node)
