"""Which commands began and what came of them: what keeps one from running twice.

In RAM a ring of ids with their results; with a path also on the flash, so that the answer
survives a reboot. One line a record, appended; an id is on the flash before its handler runs:

    crc32 of the rest, 8 hexadecimal digits, a space, then
    ["id"]                   it began
    ["id","ok",value]        the body of RESULT: it ended

A line without its end was being written when the power went: its handler had not begun.
"""

import binascii
import json

from fleetnet.commands import ERROR, MAX_ID, encode_result
from fleetnet_device import saved
from fleetnet_device.limits import JOURNAL_BYTES, JOURNAL_LINE, MAX_COMMAND_IDS, MAX_RESULT_BYTES

# What is longer is not ours: at most one line goes beyond JOURNAL_BYTES.
_MAX_FILE_BYTES = JOURNAL_BYTES + JOURNAL_LINE + 64


TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Journal:
    """The memory of one device's commands.

    Args:
        path: file on the flash, "" to keep all in RAM.
        report: called with an error that ends the use of the flash.

    Attributes:
        is_complete: every command of earlier boots is known here. Else one that an earlier
            boot may have begun must not be run.
    """

    def __init__(self, path: str, report: "Callable[[Exception, str], None]"):
        self._path = path
        self._report = report
        self._results: "dict[str, bytes]" = {}  # b"": it runs
        self._order: "list[str]" = []
        self._file_bytes = 0
        self.is_complete = False
        if path:
            self._load()

    def find(self, command_id: str) -> "bytes | None":
        """Return the body of RESULT of a command, b"" while it runs, None when it never began."""
        return self._results.get(command_id)

    def begin(self, command_id: str) -> None:
        """Note a command whose handler is about to run."""
        self._remember(command_id, b"")
        self._append(json.dumps([command_id]).encode())

    def end(self, command_id: str, result: bytes) -> None:
        """Note the body of RESULT of a command that began."""
        self._remember(command_id, result)
        self._append(result if len(result) <= JOURNAL_LINE else _lost(command_id))

    def _remember(self, command_id: str, result: bytes) -> None:
        if command_id not in self._results:
            self._order.append(command_id)
        self._results[command_id] = result
        ended = [known for known in self._order if self._results[known]]
        for known in ended[: max(0, len(self._order) - MAX_COMMAND_IDS)]:
            del self._results[known]
            self._order.remove(known)
        total = 0
        for known in reversed(self._order):
            total += len(self._results[known])
            if total > MAX_RESULT_BYTES and known != command_id and self._results[known]:
                self._results[known] = _lost(known)

    # -- the flash -------------------------------------------------------------------

    def _append(self, body: bytes) -> None:
        if not self._path:
            return
        line = _line(body)
        try:
            if self._file_bytes + len(line) > JOURNAL_BYTES:
                self._compact()
            else:
                with open(self._path, "ab") as file:
                    file.write(line)
                    saved.settle(file)
                self._file_bytes += len(line)
        except OSError as error:
            self._give_up(error)

    def _compact(self) -> None:
        """Write the file anew from what RAM holds, the newest results first to be kept."""
        kept: "list[bytes]" = []
        size = 0
        for known in reversed(self._order):
            body = self._results[known] or json.dumps([known]).encode()
            if len(body) > JOURNAL_LINE or size > JOURNAL_BYTES // 4:
                body = _lost(known)
            kept.append(_line(body))
            size += len(kept[-1])
        kept.reverse()
        saved.replace(self._path, b"".join(kept))
        self._file_bytes = size

    def _give_up(self, error: Exception) -> None:
        """Go on in RAM; a journal with a hole in it must not be found by the next boot."""
        try:
            saved.remove(self._path)
        except OSError:
            pass
        self._path = ""
        self._report(error, "journal of commands: RAM only from now on; is the flash full?")

    def _load(self) -> None:
        try:
            saved.finish(self._path)
            with open(self._path, "rb") as file:
                data = file.read(_MAX_FILE_BYTES + 1)
        except OSError:
            return
        lines = data.split(b"\n")
        is_torn = bool(lines.pop())
        self.is_complete = len(data) <= _MAX_FILE_BYTES
        for line in lines:
            self.is_complete = self._take(line) and self.is_complete
        interrupted = [known for known in self._order if not self._results[known]]
        for known in interrupted:
            self._results[known] = encode_result(
                known, ERROR, ["Interrupted", "the device restarted while it ran"]
            )
        self._file_bytes = len(data)
        if interrupted or is_torn or not self.is_complete:
            try:
                self._compact()
            except OSError as error:
                self._give_up(error)

    def _take(self, line: bytes) -> bool:
        """Read one line of the file; False when it is damaged."""
        body = line[9:]
        if line[:9] != b"%08x " % (binascii.crc32(body) & 0xFFFFFFFF):
            return False
        try:
            record = json.loads(body)
            command_id = record[0]
        except (ValueError, IndexError, TypeError, KeyError):
            return False
        if not isinstance(command_id, str) or len(command_id) > MAX_ID:
            return False
        self._remember(command_id, body if len(record) > 1 else b"")
        return True


def _line(body: bytes) -> bytes:
    return b"%08x %s\n" % (binascii.crc32(body) & 0xFFFFFFFF, body)


def _lost(command_id: str) -> bytes:
    return encode_result(
        command_id, ERROR, ["ResultLost", "it ran; its result was too large to be kept"]
    )
