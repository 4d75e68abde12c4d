"""The fleet of a test: folder, server, devices; all ended when the test is over."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from end_to_end.fleet import Fleet


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    """A fleet whose server runs."""
    async with Fleet(tmp_path / "fleet") as made:
        yield made
