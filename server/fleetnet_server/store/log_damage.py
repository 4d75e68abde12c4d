"""Notices at the start of a server that the store's log (FILE-wal) has lost commits.

SQLite takes a log up to the first frame whose checksum is wrong, and says nothing of what stands
behind it. After a power failure that is right: of the last commit, which was never acknowledged,
anything may be missing. Where whole commits stand behind the break it is damage: they had been
acknowledged. A copy of such a log is kept, because SQLite writes over it.

Source: https://sqlite.org/fileformat2.html#the_write_ahead_log and
https://sqlite.org/walformat.html (mxFrame of the index, FILE-shm).
"""

import logging
import os
import shutil
import struct
import sys
from pathlib import Path

import apsw

from fleetnet_server.store.schema import BUSY_TIMEOUT_MS

_log = logging.getLogger("fleetnet.store")

_HEADER = struct.Struct(">4x4xI4x8s8x")  # page size, salts
_SUMS = struct.Struct(">4x4x4x4x4x4xII")
_FRAME = struct.Struct(">4xI8s8x")  # pages after the commit (0: none ends here), salts
_TAKEN = struct.Struct("<I" if sys.byteorder == "little" else ">I")
# Where the index keeps mxFrame, and what a page may have (the documents above).
_TAKEN_AT = 16
_PAGES = range(512, 65_537)
# The header and the first two frames.
_START = 32 + 2 * 24 + 65_536

# Descriptors of FILE-shm, open until the process ends. With the close of any descriptor a process
# loses all its locks on that file (fcntl(2), https://sqlite.org/howtocorrupt.html section 2.2),
# SQLite's as well: the next process to open the store would take it for unused, and cut FILE-shm
# short below our mapping of it (SIGBUS).
_kept: list[int] = []


def _start(head: bytes) -> tuple[int, bytes]:
    """Return page size and salts of a log.

    SQLite takes nothing of a log whose header is damaged: then its first two frames tell.
    """
    page, salts = _HEADER.unpack_from(head)
    words = struct.Struct(">II" if head[3] & 1 else "<II")
    first = second = 0
    for at in range(0, 24, 8):
        one, two = words.unpack_from(head, at)
        first = first + one + second & 0xFFFFFFFF
        second = second + two + first & 0xFFFFFFFF
    if (first, second) == _SUMS.unpack_from(head):
        return page, salts
    salts = head[40:48]
    for power in range(9, 17):
        at = _HEADER.size + _FRAME.size + (1 << power) + 8
        if head[at : at + 8] == salts:
            return 1 << power, salts
    return page, salts


def commits(log: Path) -> list[int]:
    """Return the numbers (1 and up) of the frames that end a commit, of the log's newest use.

    Reads 24 B for each frame; their checksums are not looked at. [] when there is no log.
    """
    found = []
    try:
        with log.open("rb") as file:
            page, salts = _start(file.read(_START))
            file.seek(_HEADER.size)
            if page not in _PAGES:
                return []
            number = 0
            while len(head := file.read(_FRAME.size)) == _FRAME.size:
                number += 1
                pages, whose = _FRAME.unpack(head)
                if pages and whose == salts:
                    found.append(number)
                file.seek(page, 1)
    except (OSError, struct.error):
        return found
    return found


class LeftLog:
    """The log that a server finds at its start, as it was before SQLite opened it.

    Args:
        store: the store's file.
    """

    def __init__(self, store: Path):
        self._store = store
        self._log = store.with_name(store.name + "-wal")
        self._index = store.with_name(store.name + "-shm")
        self._copy = store.with_name(store.name + "-wal.damaged")
        self._asked = store.with_name(store.name + "-wal.found")
        self._header = self._read_header()
        self._commits = commits(self._log)
        self._asked.unlink(missing_ok=True)  # of a start that did not come to its end
        if self._commits:
            try:
                kept = os.open(self._asked, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
                with open(kept, "wb") as target, self._log.open("rb") as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            except OSError:
                self._asked.unlink(missing_ok=True)  # a full disk keeps nobody from starting

    def _read_header(self) -> bytes:
        try:
            with self._log.open("rb") as file:
                return file.read(_HEADER.size)
        except OSError:
            return b""

    def compare(self) -> int:
        """Say what SQLite does not take; before the store is opened for writing.

        Returns:
            How many commits stand behind the place up to which the log was good.
        """
        lost = self._count_lost()
        kept: Path | None = None
        if lost < 2:
            self._asked.unlink(missing_ok=True)
        elif self._asked.exists():
            number = 1
            kept = self._copy
            while kept.exists():  # of an earlier damage
                number += 1
                kept = self._copy.with_name(f"{self._copy.name}.{number}")
            self._asked.rename(kept)
        if lost == 1:
            _log.warning(
                "the last commit in %s is not whole and was left out: so it is after a power "
                "failure, when it was never acknowledged; otherwise look at the disk", self._log,
            )  # fmt: skip
        elif lost:
            _log.error(
                "%s is damaged: %d commits behind the damage were left out, and their messages "
                "are lost though they were acknowledged; the log as it was %s; "
                "look at the disk, and restore a backup if it has more",
                self._log, lost, f"is kept in {kept}" if kept else "could not be copied",
            )  # fmt: skip
        return lost

    def _count_lost(self) -> int:
        # Another process that had the store open may have put the log away meanwhile, or begun it
        # anew: then nothing can be said, and nothing is missing because of the log.
        if not self._commits:
            return 0
        try:
            reader = apsw.Connection(str(self._store), flags=apsw.SQLITE_OPEN_READONLY)
        except apsw.Error:
            return 0  # SqliteStore says it better
        try:
            reader.set_busy_timeout(BUSY_TIMEOUT_MS)
            # As long as this reads, nobody begins the log anew; one who did before has another.
            reader.execute("BEGIN; SELECT count(*) FROM sqlite_schema").fetchall()
            index = os.open(self._index, os.O_RDONLY)
            _kept.append(index)
            (taken,) = _TAKEN.unpack(os.pread(index, _TAKEN.size, _TAKEN_AT))
            if self._read_header() != self._header:
                return 0
        except (apsw.Error, OSError, struct.error):
            return 0
        finally:
            reader.close()
        return sum(number > int(taken) for number in self._commits)
