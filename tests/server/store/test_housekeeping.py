"""The thread beside a server: its budget, its pauses, and works that fail."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fleetnet_server.config import Settings
from fleetnet_server.errors import StoreUnavailable
from fleetnet_server.store import housekeeping
from fleetnet_server.store.housekeeping import Budget, Housekeeping
from fleetnet_server.store.retention import Retention
from fleetnet_server.store.sqlite import SqliteStore


class Work:
    """Moves some bytes at each step, or raises."""

    def __init__(self, name: str, moves: int = 1):
        self.name = name
        self.moves = moves
        self.steps = 0
        self.error: Exception | None = None
        self.is_closed = False

    def step(self) -> int:
        self.steps += 1
        if self.error is not None:
            raise self.error
        return self.moves

    def close(self) -> None:
        self.is_closed = True


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        threading.Event().wait(0.002)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "_IDLE_S", 0.001)
    monkeypatch.setattr(housekeeping, "_AWAY_S", 0.001)


def test_it_rests_for_its_share_of_core_and_disk() -> None:
    house = Housekeeping((), Budget(0.25, 1000))
    assert house.rest_s(0.1, 0) == pytest.approx(0.3)
    assert house.rest_s(0.1, 5000) == pytest.approx(4.9)
    house.budget = Budget(1.0, 1000)
    assert house.rest_s(0.1, 0) == 0


@pytest.mark.usefixtures("quick")
def test_a_work_that_fails_stops_no_other_and_fills_no_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad, good = Work("bad"), Work("good")
    bad.error = StoreUnavailable("no disk")
    house = Housekeeping((bad, good), Budget(1.0))
    house.start()
    until(lambda: bad.steps > 20 and good.steps > 20)
    bad.error = ValueError("a body")
    until(lambda: bad.steps > 40)
    bad.error = None
    until(lambda: "bad goes on" in caplog.text)
    house.stop()
    assert bad.is_closed and good.is_closed
    errors = [one for one in caplog.records if one.levelno == logging.ERROR]
    assert [one.getMessage() for one in errors] == [
        "bad failed, and is tried again; nothing is lost: no disk"
    ]


@pytest.mark.usefixtures("quick")
def test_settings_pause_compaction_and_nothing_else() -> None:
    compaction, other = Work("compaction"), Work("retention")
    house = Housekeeping((compaction, other))
    house.use(Settings(compaction=False, housekeeping_share=1.0))
    house.start()
    until(lambda: other.steps > 10)
    assert compaction.steps == 0
    house.use(Settings(housekeeping_share=0.5))
    until(lambda: compaction.steps > 0)
    assert house.budget.share == 0.5
    house.stop()


def test_an_idle_work_costs_one_look_a_second() -> None:
    work = Work("idle", moves=0)
    house = Housekeeping((work,))
    house.start()
    until(lambda: work.steps > 0)
    house.stop()
    assert work.steps < 20, "it spins"


def test_retention_says_once_why_it_does_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "retention.toml").write_text("[[rules]]")
    with SqliteStore(tmp_path / "fleet.db") as store:
        retention = Retention(store, tmp_path)
        for _pass in range(3):
            retention._due = 0.0
            assert retention.step() == 0
        retention.close()
    assert caplog.text.count("unknown key 'rules'") == 1
    assert "nothing is ended" in caplog.text
