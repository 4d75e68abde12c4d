"""The world of the rotation tests; other tests have worlds of their own."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from fleetnet_server.core import rotation as module
from fleetnet_server.store import identities as table_module
from server.core.rotation_world import Clock, World


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    made = Clock()
    monkeypatch.setattr(module, "_now_ms", made)
    monkeypatch.setattr(table_module, "_now_ms", made)
    yield made


@pytest.fixture
async def world(tmp_path: Path, clock: Clock) -> AsyncIterator[World]:
    made = World(tmp_path / "fleet", clock)
    yield made
    await made.rotations.stop()
    made.store.close()
