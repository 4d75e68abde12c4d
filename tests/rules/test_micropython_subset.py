"""Shared and device code stays inside what MicroPython 1.25 runs and a small device can afford."""

from pathlib import Path

import pytest

from interpreters import Interpreter, interpreters
from rules.micropython_subset import complaints
from rules.tree import ROOT, shared_files

FILES = shared_files()
COMPILE = """
import sys
for path in sys.argv[1:]:
    with open(path) as file:
        source = file.read()
    try:
        compile(source, path, "exec")
    except SyntaxError as error:
        print(path, error)
"""
REFUSED = [
    "match x:\n    case 1:\n        pass",
    "def f(a, /):\n    pass",
    "try:\n    pass\nexcept* OSError:\n    pass",
    "async def f():\n    return [x async for x in y]",
    "x = {**a}",
    "x = [*a]",
    "x = (*a, 1)",
    "raise A() from error",
    "class A(B, metaclass=C):\n    pass",
    "class A(B, C):\n    pass",
    "del buffer[:n]",
    "class A:\n    def f(self):\n        self.inbox = bytearray()\n        del self.inbox[:2]",
    "x = view[::2]",
    "with (\n    open(a) as b,\n    open(c) as d,\n):\n    pass",
    "from __future__ import annotations",
    "import typing",
    "from dataclasses import dataclass",
    "import os.path as p\nimport ssl",
    "from asyncio import Queue",
    "except_ = TimeoutError",
    "x = number.bit_length()",
    "x = asyncio.TaskGroup()",
    "x = time.monotonic()",
    "x = os.path.join(a)",
    "x = struct.Struct('B')",
    "x = digest.hexdigest()",
    "x = json.dumps(a, sort_keys=True)",
    "x = n.to_bytes(4, 'big', signed=True)",
    "x = isinstance(a, int | str)",
    "from collections.abc import Callable",
    "x = bytearray(length)",
    "x = bytes(self.frame_size + 1)",
    "x = b'\\0' * length",
    "x = [0] * message_size",
    "x = await stream.readexactly(length)",
]
ACCEPTED = [
    "first, *rest = a",
    "if TYPE_CHECKING:\n    from collections.abc import Callable",
    "items = []\ndel items[:2]",
    "f(*a, **b)",
    "from fleetnet.errors import FleetError",
    "x = bytearray(MAX_FRAME)",
    "x = bytearray(limits.MAX_LENGTH)",
    "x = bytearray(min(length, MAX_FRAME))",
    "x = bytearray(data)",
    "x = bytearray(length)  # bounded: checked against MAX_FRAME above",
    "x = b'\\0' * 16",
    "def f(a: int, *, b: list[int] | None = None) -> str: ...",
    "x = isinstance(a, (int, str))",
    "x = lines.split(',')",
]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_shared_file(path: Path) -> None:
    found = complaints(path.read_text(encoding="utf-8"))
    assert not found, "\n".join(f"{path.relative_to(ROOT)}:{each}" for each in found)


@pytest.mark.parametrize("source", REFUSED)
def test_the_rule_refuses(source: str) -> None:
    assert complaints(source)


@pytest.mark.parametrize("source", ACCEPTED)
def test_the_rule_accepts(source: str) -> None:
    assert not complaints(source)


@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda each: each.name)
def test_each_interpreter_compiles_every_file(interpreter: Interpreter, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text(REFUSED[0])
    assert str(bad) in interpreter.run("-c", COMPILE, str(bad)).stdout
    done = interpreter.run("-c", COMPILE, *map(str, FILES))
    assert (done.returncode, done.stdout) == (0, ""), done.stdout + done.stderr
