"""A log that is damaged is named at the next start, one that a crash or a power cut left is not."""

import logging
import shutil
from pathlib import Path

import pytest

from fleetnet_server.core.bodies import Message
from fleetnet_server.store.log_damage import LeftLog, commits
from fleetnet_server.store.schema import open_readable
from fleetnet_server.store.sqlite import SqliteStore

COMMITS = 12
BODY = '[1,0,["t"],[[0,0,"' + "x" * 400 + '"]]]'


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """The files of a server that was killed; each of its messages was a commit."""
    (tmp_path / "live").mkdir()
    with SqliteStore(tmp_path / "live" / "fleet.db") as store:
        store.add_device("cam-1")
        epoch = store.epoch_id(1, b"epoch-01")
        for seq in range(1, COMMITS + 1):
            store.commit([Message(1, epoch, 3, seq, 16, 1, 1, 1, BODY)])
        for name in ("fleet.db", "fleet.db-wal"):
            shutil.copyfile(tmp_path / "live" / name, tmp_path / name)
    return tmp_path / "fleet.db"


def started(path: Path) -> tuple[int, int]:
    """Start on these files; return what was said to be lost, and how many messages are there."""
    lost = LeftLog(path).compare()
    with SqliteStore(path):
        reader = open_readable(path)
        held = int(reader.execute("SELECT count(*) FROM messages").get)
        reader.close()
    return lost, held


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_a_log_that_a_crash_left_is_good(crashed: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert started(crashed) == (0, COMMITS)
    assert caplog.records == [] and not crashed.with_name("fleet.db-wal.damaged").exists()
    assert started(crashed) == (0, COMMITS)  # and where there is none, after a clean end


def test_damage_in_the_middle_is_an_error_and_the_log_is_kept(
    crashed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = crashed.with_name("fleet.db-wal")
    flip(log, log.stat().st_size // 2)
    damaged = log.read_bytes()
    lost, held = started(crashed)
    assert lost > 2 and held < COMMITS
    (record,) = caplog.records
    assert record.levelno == logging.ERROR and f"{lost} commits" in record.getMessage()
    kept = crashed.with_name("fleet.db-wal.damaged")
    assert kept.read_bytes() == damaged
    assert kept.stat().st_mode & 0o777 == 0o600


def test_a_last_commit_that_is_not_whole_is_what_a_power_cut_leaves(
    crashed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = crashed.with_name("fleet.db-wal")
    flip(log, log.stat().st_size - 100)
    assert started(crashed) == (1, COMMITS - 1)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert not crashed.with_name("fleet.db-wal.damaged").exists()


def test_what_is_no_log_says_nothing(tmp_path: Path) -> None:
    assert commits(tmp_path / "none") == []
    (tmp_path / "short").write_bytes(b"\x37\x7f\x06\x82")
    (tmp_path / "odd").write_bytes(bytes(400))
    assert commits(tmp_path / "short") == commits(tmp_path / "odd") == []


def test_the_look_at_the_index_leaves_the_locks_of_sqlite(crashed: Path) -> None:
    """Without them the next process to open the store cuts the index short: SIGBUS in a server."""
    left = LeftLog(crashed)
    with SqliteStore(crashed):
        left.compare()
        inode = crashed.with_name("fleet.db-shm").stat().st_ino
        rows = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
        held = {int(row[6]) for row in rows if row[5].endswith(f":{inode}") and row[6].isdigit()}
    assert 128 in held  # the dead man's switch: https://sqlite.org/src/file/src/os_unix.c
