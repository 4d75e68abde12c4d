"""One server for the tests that only ask; those that change it have their own."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from server.web.orchard import CAMERA, STAR, Orchard
from server.web.world import WebFleet

if TYPE_CHECKING:
    from playwright.async_api import Browser


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[WebFleet]:
    """A running server without devices."""
    made = WebFleet(tmp_path / "fleet")
    try:
        await made.start_server()
        yield made
    finally:
        await made.close()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator["Browser"]:
    """A Chromium for the tests of one file."""
    # Imported here: what asks without a browser also runs where there is no playwright.
    from server.web.chromium import CHROMIUM, chromium

    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    async with chromium() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def orchard(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Orchard]:
    """A server with a few devices of the orchard, for the tests of one file."""
    fleet = WebFleet(tmp_path_factory.mktemp("orchard") / "fleet")
    fleet.tokens["operator"] = fleet.add_token("operator", "read", "command", "config")
    made = Orchard(fleet, (STAR, CAMERA, "soil-01", "soil-07"))
    made.register()
    async with fleet, made:
        yield made
