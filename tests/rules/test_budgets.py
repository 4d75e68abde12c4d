"""Files and functions of the product stay small enough to be read in one go."""

import ast

from rules.tree import ROOT, product_files

FILE_LINES = 400
FUNCTION_LINES = 45


def long_functions(source: str, limit: int) -> list[tuple[str, int]]:
    """Functions whose definition, decorators excluded, takes more lines than the limit."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > limit:
                found.append((node.name, lines))
    return found


def test_files_are_short() -> None:
    sizes = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in product_files()}
    long = [f"{path.relative_to(ROOT)}: {n}" for path, n in sizes.items() if n > FILE_LINES]
    assert not long, f"files of more than {FILE_LINES} lines: {long}"


def test_functions_are_short() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {name} {lines}"
        for path in product_files()
        for name, lines in long_functions(path.read_text(encoding="utf-8"), FUNCTION_LINES)
    ]
    assert not long, f"functions of more than {FUNCTION_LINES} lines: {long}"


def test_the_rule_sees_a_long_function() -> None:
    source = "def short():\n    pass\nclass A:\n    async def long(self):\n" + "        x = 1\n" * 9
    assert long_functions(source, 9) == [("long", 10)]


def test_shell_files_are_short() -> None:
    for path in sorted((ROOT / "tools").glob("*.sh")):
        assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES, path
