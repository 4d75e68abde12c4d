"""Small changes to a module's syntax tree that its tests have to notice; used by mutation.py.

Kinds: another comparison, another operator, `and` for `or`, a condition turned around, a number one
larger, True for False, bytes or text that are others, a `return` of nothing, a statement left out,
`continue` for `break`.

Not changed: docstrings and annotations, what a `raise` says to people (its argument's text), names
in __slots__ and __all__, and f-strings: a test that pins each word of a message would have to be
changed with it, and would find nothing. tests/docs checks that messages name a remedy.

A mutant's name is made of its function and of the text before and behind, not of its line: it
stays the same while the module around it changes.
"""

import ast
import copy
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

_COMPARE = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_OPERATOR = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult, ast.Mod: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr, ast.Pow: ast.Mult,
}  # fmt: skip
_QUIET = ("__slots__", "__all__", "__version__")
_SHOWN = 100


class Mutant(NamedTuple):
    """One changed module: ``name`` is unique in its module, ``tree`` can be compiled."""

    name: str
    tree: ast.Module


class _Site(NamedTuple):
    """Where a change is made: the node, what it becomes (None: it is removed), and its place."""

    node: ast.AST
    change: ast.AST | None
    place: str


def mutants_of(source: str) -> Iterator[Mutant]:
    """Yield every mutant of a module's source, in the order of its text."""
    tree = ast.parse(source)
    seen: Counter[str] = Counter()
    for site in _sites(tree, ""):
        before = ast.unparse(site.node).splitlines()[0][:_SHOWN]
        behind = "left out" if site.change is None else ast.unparse(site.change)
        name = f"{site.place}: {before} -> {behind.splitlines()[0][:_SHOWN]}"
        seen[name] += 1
        if seen[name] > 1:
            name += f" (no. {seen[name]})"
        yield Mutant(name, _changed(tree, site))


def _changed(tree: ast.Module, site: _Site) -> ast.Module:
    change = ast.Pass() if site.change is None else site.change
    memo = {id(site.node): ast.copy_location(copy.copy(change), site.node)}
    return ast.fix_missing_locations(copy.deepcopy(tree, memo))


def _sites(node: ast.AST, place: str) -> Iterator[_Site]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        place = f"{place}.{node.name}" if place else node.name
    elif isinstance(node, ast.Assign) and not place and isinstance(node.targets[0], ast.Name):
        place = node.targets[0].id
    for change in _changes(node):
        yield _Site(node, change, place or "module")
    for child in _children(node):
        yield from _sites(child, place)


def _children(node: ast.AST) -> Iterator[ast.AST]:
    """What is below a node, without what is not changed."""
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "type_comment", "decorator_list", "bases"):
            continue
        if isinstance(node, ast.Raise) or _is_quiet(node):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr):
                yield child


def _is_quiet(node: ast.AST) -> bool:
    if isinstance(node, ast.Assign):
        return any(isinstance(t, ast.Name) and t.id in _QUIET for t in node.targets)
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)  # a docstring, or `...`
    if isinstance(node, ast.If):
        return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    return False


def _changes(node: ast.AST) -> Iterator[ast.AST | None]:
    if isinstance(node, ast.Compare):
        yield from _compared(node)
    elif isinstance(node, ast.BinOp | ast.AugAssign):
        if (other := _OPERATOR.get(type(node.op))) is not None and not _is_text(node):
            yield _with(node, op=other())
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp):
        if isinstance(node.op, ast.Not):
            yield node.operand
    elif isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.IfExp | ast.While | ast.If) and not _is_quiet(node):
        if not isinstance(node.test, ast.Compare | ast.Constant):
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    yield from _statements(node)


def _compared(node: ast.Compare) -> Iterator[ast.AST]:
    for index, operator in enumerate(node.ops):
        operators = list(node.ops)
        operators[index] = _COMPARE[type(operator)]()
        yield _with(node, ops=operators)


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    value = node.value
    if isinstance(value, bool):
        yield ast.Constant(not value)
    elif isinstance(value, int | float):
        yield ast.Constant(value + 1)
    elif isinstance(value, bytes):
        yield ast.Constant(value + b"X" if value else b"X")
    elif isinstance(value, str):
        yield ast.Constant(value + "X")


def _statements(node: ast.AST) -> Iterator[ast.AST | None]:
    if isinstance(node, ast.Return):
        if node.value is not None and not _is_none(node.value):
            yield ast.Return(ast.Constant(None))
    elif isinstance(node, ast.Expr):
        if not _is_quiet(node):
            yield None
    elif isinstance(node, ast.Raise | ast.AugAssign):
        yield None
    elif isinstance(node, ast.Assign):
        if not isinstance(node.targets[0], ast.Name):
            yield None
    elif isinstance(node, ast.Continue):
        yield ast.Break()
    elif isinstance(node, ast.Break):
        yield ast.Continue()


def _is_text(node: ast.BinOp | ast.AugAssign) -> bool:
    """Whether ``%`` fills in a text."""
    return isinstance(node, ast.BinOp) and isinstance(node.left, ast.Constant | ast.JoinedStr) and (
        not isinstance(node.left, ast.Constant) or isinstance(node.left.value, str)
    )


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _with(node: ast.AST, **values: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in values.items():
        setattr(changed, name, value)
    return changed
