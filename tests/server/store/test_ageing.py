"""The time by which stored things are too old: a clock that jumps ends nothing."""

import logging
from pathlib import Path

import pytest

from fleetnet_server.store.ageing import FILE_NAME, AgeClock
from fleetnet_server.store.query import query
from fleetnet_server.store.retention import Retention
from server.store.plain_store import NOW, PlainStore

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
CENTURY_MS = 27_000 * DAY_MS  # 2100


class World:
    def __init__(self, folder: Path, newest_ms: int | None = None):
        self.folder = folder
        self.wall, self.steady = NOW, 1000.0
        self.start(newest_ms)

    def start(self, newest_ms: int | None = None) -> None:
        self.steady = 1000.0
        self.clock = AgeClock(self.folder, newest_ms, lambda: self.wall, lambda: self.steady)

    def pass_ms(self, elapsed: int, jump: int = 0) -> int:
        self.wall += elapsed + jump
        self.steady += elapsed / 1000
        return self.clock.now_ms()


def test_an_honest_clock_is_believed(tmp_path: Path) -> None:
    world = World(tmp_path, NOW - 3 * DAY_MS)
    for elapsed, jump in ((0, 0), (300_000, 20), (DAY_MS, -20), (300_000, 1_800_000)):
        assert world.pass_ms(elapsed, jump) == world.wall
    world.start()
    assert world.pass_ms(0, 20 * DAY_MS) == world.wall  # the server was off


def test_a_clock_that_jumps_ahead_is_believed_after_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(tmp_path)
    world.pass_ms(0)
    assert world.pass_ms(10_000, CENTURY_MS) == NOW + 10_000
    for _hour in range(23):
        assert world.pass_ms(HOUR_MS) < NOW + DAY_MS
    assert world.pass_ms(HOUR_MS) == world.wall
    assert [one.levelno for one in caplog.records] == [logging.ERROR]


def test_a_clock_that_is_set_right_again_is_believed_at_once(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.pass_ms(0)
    world.pass_ms(HOUR_MS, CENTURY_MS)
    assert world.pass_ms(HOUR_MS, -CENTURY_MS) == world.wall
    world.pass_ms(23 * HOUR_MS, CENTURY_MS)
    assert world.pass_ms(23 * HOUR_MS) < NOW + 3 * DAY_MS  # the day begins again


@pytest.mark.parametrize("text", [None, b"", b"soon", b"9" * 4000, b"-5"])
def test_a_restart_does_not_believe_what_the_server_before_did_not(
    tmp_path: Path, text: bytes | None
) -> None:
    world = World(tmp_path)
    world.pass_ms(0)
    if text is not None:
        (tmp_path / FILE_NAME).write_bytes(text)
    world.wall += CENTURY_MS
    for _start in range(3):
        world.start(NOW)
        assert world.pass_ms(300_000) < NOW + HOUR_MS


def test_a_clock_that_begins_in_1970_and_is_set_then(tmp_path: Path) -> None:
    world = World(tmp_path, NOW)
    world.pass_ms(0)
    world.wall = 5000
    world.start()
    assert world.pass_ms(0) == 5000
    world.wall = NOW + 60_000
    assert world.pass_ms(0) == NOW + 60_000


def test_retention_keeps_everything_when_the_clock_says_2100(tmp_path: Path) -> None:
    (tmp_path / "retention.toml").write_text('[[rule]]\nraw = "30d"\n')
    plain = PlainStore(tmp_path / "fleet.db")
    for seq in range(1, 40):
        plain.put(1, seq, [(0, seq, seq)])
    plain.compact()
    world = World(tmp_path)
    retention = Retention(plain.store, tmp_path, world.clock.now_ms)
    world.pass_ms(0)
    world.pass_ms(1000, CENTURY_MS)
    for _step in range(20):
        retention.step()
    assert len(list(query(plain.store.path))) == 39
    retention.close()
    plain.close()
