"""The files of `fleetnet export`: CSV, JSON lines, Parquet; written a piece at a time.

Each of them can be cut before the last millisecond that it has, so that an interrupted export
goes on without a reading twice or left out.
"""

import csv
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from fleetnet_server.cli.output import flat, json_text
from fleetnet_server.cli.whole_file import whole_file
from fleetnet_server.store.query import Reading

PARQUET = "parquet"
FORMATS = ("csv", "jsonl", PARQUET)

# Rows of a Parquet row group: what one column of it is compressed and indexed by.
_GROUP_ROWS = 65_536
_EXACT = 1 << 53  # integers beyond it are not every one a double

COLUMNS = ("unix_ms", "device", "channel", "value", "stream", "epoch", "seq")


class ExportFile(Protocol):
    """What is exported into.

    Attributes:
        count: readings written. last_ms: of the last dated one, unix ms.
    """

    count: int
    last_ms: int | None

    def write(self, reading: Reading) -> None:
        """Add one reading; they come in order of time."""

    def cut(self) -> int:
        """Take away every reading of ``last_ms`` and later; return ``last_ms``."""

    def close(self) -> None:
        """Write what a complete file ends with."""


@contextmanager
def open_export(form: str, target: str, overwrite: bool) -> Iterator[ExportFile]:
    """Open FILE beside its place, and move it there when it is closed without an error.

    Raises:
        FolderError: it exists, or cannot be written.
    """
    if target == "-":
        out: ExportFile = _TEXT[form](sys.stdout)
        yield out
        out.close()
        return
    with whole_file(Path(target), overwrite) as temporary:
        if form == PARQUET:
            out = ParquetFile(temporary)
            yield out
            out.close()
        else:
            with temporary.open("w", encoding="utf-8", newline="") as stream:
                out = _TEXT[form](stream)
                yield out
                out.close()


class _TextFile:
    def __init__(self, stream: IO[str]):
        self._stream = stream
        self._can_cut = stream.seekable() and stream is not sys.stdout
        self._mark = (0, 0)  # where the last millisecond begins: position, count
        self.count = 0
        self.last_ms: int | None = None

    def _note(self, reading: Reading) -> None:
        if reading.unix_ms is not None and reading.unix_ms != self.last_ms:
            self.last_ms = reading.unix_ms
            if self._can_cut:
                self._mark = (self._stream.tell(), self.count)
        self.count += 1

    def cut(self) -> int:
        """See ExportFile; what went to standard output has gone."""
        assert self.last_ms is not None
        if self._can_cut:
            self._stream.seek(self._mark[0])
            self._stream.truncate()
            self.count = self._mark[1]
        return self.last_ms

    def close(self) -> None:
        """See ExportFile."""
        self._stream.flush()


class JsonLinesFile(_TextFile):
    """One object a reading, as `fleetnet query --json` prints it."""

    def write(self, reading: Reading) -> None:
        """See ExportFile."""
        self._note(reading)
        self._stream.write(json_text(reading._asdict()) + "\n")


class CsvFile(_TextFile):
    """RFC 4180, with a heading; a value is JSON, so that text and numbers differ.

    A spreadsheet takes a cell that begins with one of = + - @ for a formula. JSON text begins
    with a quotation mark, JSON numbers are numbers; a channel of such a name gets an
    apostrophe, which spreadsheets do not show.
    """

    def __init__(self, stream: IO[str]):
        super().__init__(stream)
        self._is_terminal = stream.isatty()  # it would obey what is in a channel's name
        self._rows = csv.writer(stream)
        self._rows.writerow(COLUMNS)

    def write(self, reading: Reading) -> None:
        """See ExportFile."""
        self._note(reading)
        channel = flat(reading.channel) if self._is_terminal else reading.channel
        if channel[:1] in ("=", "+", "-", "@", "\t", "\r"):
            channel = "'" + channel
        when = "" if reading.unix_ms is None else reading.unix_ms
        self._rows.writerow((
            when, reading.device, channel, json_text(reading.value), reading.stream,
            reading.epoch, reading.seq,
        ))  # fmt: skip


class ParquetFile:
    """Columns time (UTC), device, channel, number, text, stream, epoch, seq; zstd.

    A value that is a number or a truth value is in ``number``; every other, and an integer
    beyond 2^53, is JSON in ``text``.
    """

    def __init__(self, path: Path):
        import pyarrow
        from pyarrow import parquet

        names = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
        self._schema = pyarrow.schema((
            ("time", pyarrow.timestamp("ms", tz="UTC")), ("device", names), ("channel", names),
            ("number", pyarrow.float64()), ("text", pyarrow.string()),
            ("stream", pyarrow.int16()), ("epoch", names), ("seq", pyarrow.int64()),
        ))  # fmt: skip
        self._batch = pyarrow.record_batch
        self._writer: Any = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._rows: list[tuple[Any, ...]] = []
        self._mark = 0  # where in _rows the last millisecond begins
        self.count = 0
        self.last_ms: int | None = None

    def write(self, reading: Reading) -> None:
        """See ExportFile."""
        if reading.unix_ms is not None and reading.unix_ms != self.last_ms:
            if len(self._rows) >= _GROUP_ROWS:
                self._flush()
            self.last_ms = reading.unix_ms
            self._mark = len(self._rows)
        elif len(self._rows) >= 4 * _GROUP_ROWS:
            self._flush()  # one millisecond, or no date at all, has that many
            self._mark = 0
        number, text = _split(reading.value)
        self._rows.append((
            reading.unix_ms, reading.device, reading.channel, number, text, reading.stream,
            reading.epoch, reading.seq,
        ))  # fmt: skip
        self.count += 1

    def cut(self) -> int:
        """See ExportFile."""
        assert self.last_ms is not None
        self.count -= len(self._rows) - self._mark
        del self._rows[self._mark :]
        return self.last_ms

    def close(self) -> None:
        """See ExportFile."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            arrays = [
                _array(column, field.type)
                for column, field in zip(columns, self._schema, strict=True)
            ]
            self._writer.write_batch(self._batch(arrays, schema=self._schema))
            self._rows.clear()


def _array(column: list[Any], kind: Any) -> Any:
    import pyarrow

    return pyarrow.array(column, type=kind)


def _split(value: Any) -> tuple[float | None, str | None]:
    """Return a value as number or as JSON text, the other None; JSON's null is neither."""
    if value is None:
        return None, None
    if isinstance(value, bool | int | float) and (
        not isinstance(value, int) or -_EXACT <= value <= _EXACT
    ):
        return float(value), None
    return None, json.dumps(value, ensure_ascii=False, separators=(",", ":"))


_TEXT: dict[str, type[CsvFile] | type[JsonLinesFile]] = {"csv": CsvFile, "jsonl": JsonLinesFile}
