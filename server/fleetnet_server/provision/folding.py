"""Folds constants into the sources before they are compiled for a board.

CPython has no ``const()``, so the library's numbers are plain names; on a board each costs
a string, an entry in a module's dict and a look-up. Here names bound once to an integer
become that integer, in their own module and in those that import them; private ones,
type-checking blocks, docstrings, annotations and __slots__, which MicroPython ignores,
disappear. What the code does stays the same. It saves 8 % of the .mpy files.
"""

import ast
from collections import Counter
from collections.abc import Mapping

_Constants = dict[str, int]


class Folder:
    """Folds modules that know one another's constants.

    Args:
        sources: dotted name of each module: its text. Modules that import others' constants
            must be folded by a Folder that has these, too.
    """

    def __init__(self, sources: Mapping[str, str]):
        self._trees = {name: ast.parse(text) for name, text in sources.items()}
        self._constants: dict[str, _Constants] = {}

    def fold(self, name: str) -> str:
        """Return the folded source of a module."""
        folding = _Folding(self, name)
        tree = folding.visit(ast.parse(ast.unparse(self._trees[name])))
        self._drop_unused(tree, _exported(self._trees[name]))
        return ast.unparse(ast.fix_missing_locations(tree)) + "\n"

    def _drop_unused(self, tree: ast.Module, exported: set[str]) -> None:
        """Take out imports that only numbers or annotations were used of."""
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} | exported
        for node in list(tree.body):
            if isinstance(node, ast.ImportFrom) and node.module in self._trees:
                node.names = [
                    alias for alias in node.names if (alias.asname or alias.name) in used
                ]
                if not node.names:
                    tree.body.remove(node)

    def tree(self, name: str) -> ast.Module:
        return self._trees[name]

    def constants(self, name: str) -> _Constants:
        """Return the integers that a module binds once, at its top."""
        known = self._constants.get(name)
        if known is None:
            known = self._constants[name] = {}
            tree = self._trees.get(name)
            if tree is not None:
                known.update(self._find(tree))
        return known

    def _find(self, tree: ast.Module) -> _Constants:
        bound = _bindings(tree)
        scope: dict[str, int | _Names] = {}
        found: _Constants = {}
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {k: v for k, v in self.imported(node).items() if not bound[k]}
                scope.update(names)
                # Whoever imports them from here must get them, too.
                found.update({k: v for k, v in names.items() if isinstance(v, int)})
            if not isinstance(node, ast.Assign) or not isinstance(node.targets[0], ast.Name):
                continue
            target = node.targets[0].id
            value = _evaluate(node.value, scope)
            if len(node.targets) == 1 and bound[target] == 1 and value is not None:
                if target.isupper():
                    found[target] = scope[target] = value
        return found

    def imported(self, node: ast.ImportFrom) -> dict[str, "int | _Names"]:
        """Return what an import binds that is known here: numbers, and modules."""
        names: dict[str, int | _Names] = {}
        theirs = self.constants(node.module or "")
        for alias in node.names:
            module = f"{node.module}.{alias.name}"
            if alias.name in theirs:
                names[alias.asname or alias.name] = theirs[alias.name]
            elif module in self._trees:
                names[alias.asname or alias.name] = _Names(self.constants(module))
        return names


def _exported(tree: ast.Module) -> set[str]:
    """Return the names that a module offers others by its ``__all__``."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return set(ast.literal_eval(node.value))
    return set()


def _bindings(tree: ast.Module) -> Counter[str]:
    """Count how often each name is bound, imports not counted."""
    bound: Counter[str] = Counter()
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            bound[node.id] += 1
        elif isinstance(node, ast.arg):
            bound[node.arg] += 1
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound[node.name] += 1
    return bound


class _Names:
    """A module among the names of another one."""

    def __init__(self, constants: _Constants):
        self.constants = constants


def _evaluate(node: ast.expr, scope: Mapping[str, "int | _Names"]) -> int | None:
    """Return the integer that an expression of integers and known names is, else None."""
    if isinstance(node, ast.Constant):
        return node.value if type(node.value) is int else None
    if isinstance(node, ast.Name):
        value = scope.get(node.id)
        return value if isinstance(value, int) else None
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        module = scope.get(node.value.id)
        return module.constants.get(node.attr) if isinstance(module, _Names) else None
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        operand = _evaluate(node.operand, scope)
        return None if operand is None else -operand
    if isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, scope), _evaluate(node.right, scope)
        if left is not None and right is not None:
            return _OPERATORS[type(node.op)](left, right) if type(node.op) in _OPERATORS else None
    return None


_OPERATORS = {
    ast.Add: int.__add__,
    ast.Sub: int.__sub__,
    ast.Mult: int.__mul__,
    ast.FloorDiv: int.__floordiv__,
    ast.LShift: int.__lshift__,
    ast.RShift: int.__rshift__,
    ast.BitOr: int.__or__,
    ast.BitAnd: int.__and__,
}


class _Folding(ast.NodeTransformer):
    """Rewrites one module."""

    def __init__(self, folder: Folder, name: str):
        self._folder = folder
        self._own = folder.constants(name)
        self._scope: dict[str, int | _Names] = {}
        self._bound = _bindings(folder.tree(name))
        self._scope.update({k: v for k, v in self._own.items() if self._bound[k] == 1})

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        names = self._folder.imported(node)
        self._scope.update({k: v for k, v in names.items() if not self._bound[k]})
        node.names = [
            alias
            for alias in node.names
            if not isinstance(self._scope.get(alias.asname or alias.name), int)
        ]
        return node if node.names else None

    def visit_Name(self, node: ast.Name) -> ast.AST:
        value = self._scope.get(node.id)
        if isinstance(node.ctx, ast.Load) and isinstance(value, int):
            return ast.Constant(value)
        return node

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        value = _evaluate(node, self._scope) if isinstance(node.ctx, ast.Load) else None
        if value is not None:
            return ast.Constant(value)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.AST] | None:
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return [self.visit(branch) for branch in node.orelse] or None
        return self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        target = node.targets[0]
        if isinstance(target, ast.Name) and (
            target.id in ("TYPE_CHECKING", "__all__", "__slots__")
            or (target.id in self._own and target.id.startswith("_"))
        ):
            return None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        if node.value is None:
            return None
        assign = ast.Assign([node.target], node.value)
        return self.visit_Assign(ast.copy_location(assign, node))

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        _drop_docstring(node)
        node.returns = None
        for argument in (*node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg):
            if argument is not None:
                argument.annotation = None
        return self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        _drop_docstring(node)
        self.generic_visit(node)
        node.body = node.body or [ast.Pass()]
        return node

    def visit_Module(self, node: ast.Module) -> ast.AST:
        _drop_docstring(node)
        return self.generic_visit(node)


def _drop_docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> None:
    if ast.get_docstring(node, clean=False) is not None:
        del node.body[0]
        if not node.body and not isinstance(node, ast.Module):
            node.body.append(ast.Pass())
