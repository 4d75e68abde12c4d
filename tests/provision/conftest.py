"""A fleet whose server runs, and boards that end with their test."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from end_to_end.fleet import Fleet
from interpreters import Interpreter, interpreters
from provision.pty_board import PtyBoard

Boards = Callable[..., PtyBoard]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path / "fleet") as made:
        yield made


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "runtime" in metafunc.fixturenames:
        found = [*interpreters()[:1], *interpreters()[1:][-1:]]
        metafunc.parametrize("runtime", found, ids=[each.name for each in found])


@pytest.fixture
def boards(tmp_path: Path) -> Iterator[Boards]:
    """Make a board on a folder; a second one on the same folder is the board after a reset."""
    made: list[PtyBoard] = []

    def make(runtime: Interpreter, folder: str = "flash") -> PtyBoard:
        made.append(PtyBoard(runtime, tmp_path / folder))
        return made[-1]

    yield make
    for board in made:
        board.close()
