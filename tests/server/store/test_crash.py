"""kill -9 and a full disk: nothing that was reported is missing, nothing is reported early."""

import os
import select
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fleetnet_server.store.schema import open_readable
from fleetnet_server.store.sqlite import SqliteStore

CHILD = Path(__file__).with_name("committing_child.py")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with SqliteStore(tmp_path / "fleet.db") as store:
        store.add_device("cam-1")
    return tmp_path / "fleet.db"


@contextmanager
def child(path: Path, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """Run the child with the parent's import path; it is dead at the end of the block."""
    process = subprocess.Popen(
        [sys.executable, str(CHILD), str(path), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    watchdog = threading.Timer(30, process.kill)
    watchdog.start()
    try:
        yield process
    finally:
        watchdog.cancel()
        process.kill()
        process.wait()
        assert process.stdin and process.stdout
        process.stdin.close()
        process.stdout.close()


def numbers(lines: list[str]) -> list[int]:
    """Sequences in whole report lines (the last line may be cut by the kill)."""
    return [
        int(seq)
        for line in lines
        if line.startswith("stored") and line.endswith("\n")
        for seq in line.split()[1:]
    ]


def stored(path: Path) -> list[int]:
    connection = open_readable(path)
    try:
        assert connection.pragma("integrity_check") == "ok"
        return [seq for (seq,) in connection.execute("SELECT seq FROM messages ORDER BY id")]
    finally:
        connection.close()


def test_kill_loses_nothing_that_was_reported(path: Path) -> None:
    reported: list[int] = []
    for kill in range(10):
        with child(path, (reported[-1] if reported else 0) + 1) as process:
            assert process.stdout
            lines = [process.stdout.readline() for _batch in range(2 + 3 * kill)]
            process.kill()
            lines += process.stdout.readlines()
        assert numbers(lines), "the child reported nothing"
        reported += numbers(lines)
        kept = stored(path)
        assert len(kept) == len(set(kept))
        assert set(reported) <= set(kept)
    assert len(reported) > 200


def test_full_disk_acknowledges_nothing_and_recovers(path: Path) -> None:
    with child(path, 1, 600_000) as process:
        assert process.stdin and process.stdout
        lines: list[str] = []
        while "log CRITICAL\n" not in lines:
            lines.append(process.stdout.readline())
            assert lines[-1], "the child ended"
        before = numbers(lines)
        assert before == list(range(1, len(before) + 1))
        assert set(before) <= set(stored(path))
        # Several attempts fail meanwhile; none is reported, none is logged again.
        assert select.select([process.stdout], [], [], 0.5)[0] == []
        assert process.poll() is None
        process.stdin.write("space\n")
        process.stdin.flush()
        after = [process.stdout.readline() for _line in range(5)]
        assert after[0] == "log WARNING\n", after
        process.kill()
        after += process.stdout.readlines()
    found = numbers(lines + after)
    assert found == list(range(1, len(found) + 1)), "a batch was lost or came twice"
    assert len(found) > len(before)
    assert set(found) <= set(stored(path))
