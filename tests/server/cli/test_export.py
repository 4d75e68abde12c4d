"""`fleetnet export` and `fleetnet query`: formats, patterns, ranges that meet, interruption."""

import csv
import io
import json
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from pyarrow import parquet

from fleetnet_server.cli.export_files import open_export
from fleetnet_server.errors import FolderError
from fleetnet_server.store.query import Reading
from server.cli.running import COMMAND, NOW, environment, fleetnet, on_a_terminal, put

VALUES = [("temp", 0, 1.5), ("note", 1, 'a "b",\n=x'), ("up", 2, True), ("big", 3, 2**60),
          ("list", 4, [1, {"a": None}]), ("=1+1", 5, -3), ("temp", 6, None)]  # fmt: skip


@pytest.fixture
def fleet(empty: Path) -> Path:
    put(empty, "cam-1", *VALUES)
    put(empty, "cam-2", ("temp", 3, 7), ("temp", 10, 8))
    return empty


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_json_lines_are_those_of_query(fleet: Path, tmp_path: Path) -> None:
    target = tmp_path / "all.jsonl"
    said = json.loads(fleetnet("-C", fleet, "export", target, "--json").stdout)
    assert (said["readings"], said["complete"], said["format"]) == (9, True, "jsonl")
    assert target.read_text() == fleetnet("-C", fleet, "query", "--json").stdout
    assert [one["unix_ms"] - NOW for one in lines(target)] == [0, 1, 2, 3, 3, 4, 5, 6, 10]
    to_stdout = fleetnet("-C", fleet, "export", "-", "--format", "jsonl")
    assert to_stdout.stdout == target.read_text()
    assert "9 readings" in to_stdout.stderr


def test_csv_says_what_is_text_and_no_cell_is_a_formula(fleet: Path, tmp_path: Path) -> None:
    target = tmp_path / "all.csv"
    fleetnet("-C", fleet, "export", target, "--device", "cam-1")
    rows = list(csv.DictReader(io.StringIO(target.read_text(), newline="")))
    assert [json.loads(row["value"]) for row in rows] == [value for _, _, value in VALUES]
    assert [row["channel"] for row in rows] == [
        "temp", "note", "up", "big", "list", "'=1+1", "temp",
    ]  # fmt: skip
    assert not any(cell[:1] in "=+@" for row in rows for cell in row.values() if cell)


def test_parquet_has_numbers_and_text_apart(fleet: Path, tmp_path: Path) -> None:
    target = tmp_path / "all.parquet"
    fleetnet("-C", fleet, "export", target, "--device", "cam-1")
    found = parquet.read_table(target).to_pylist()
    assert [(one["number"], one["text"]) for one in found] == [
        (1.5, None), (None, '"a \\"b\\",\\n=x"'), (1.0, None), (None, str(2**60)),
        (None, '[1,{"a":null}]'), (-3.0, None), (None, None),
    ]  # fmt: skip
    assert [round(one["time"].timestamp() * 1000) - NOW for one in found] == list(range(7))
    assert {one["device"] for one in found} == {"cam-1"}
    fleetnet("-C", fleet, "export", "-", "--format", "parquet", code=2)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        (("--device", "cam-*"), 9),
        (("--device", "cam-2"), 2),
        (("--device", "cam-1", "--device", "cam-2", "--channel", "temp"), 4),
        (("--channel", "t*"), 4),
        (("--channel", "[nu]*"), 2),
        (("--since", str(NOW + 3), "--until", str(NOW + 6)), 4),
        (("--since", str(NOW + 11)), 0),
    ],
)
def test_patterns_and_ranges(
    fleet: Path, tmp_path: Path, options: tuple[str, ...], count: int
) -> None:
    target = tmp_path / "some.jsonl"
    said = json.loads(fleetnet("-C", fleet, "export", target, *options, "--json").stdout)
    assert said["readings"] == len(lines(target)) == count
    assert fleetnet("-C", fleet, "query", "--json", *options).stdout == target.read_text()


def test_ranges_that_meet_have_every_reading_once(fleet: Path, tmp_path: Path) -> None:
    cuts = [NOW, NOW + 3, NOW + 4, NOW + 11]
    parts = []
    for number, (begin, end) in enumerate(pairwise(cuts)):
        part = tmp_path / f"{number}.jsonl"
        fleetnet("-C", fleet, "export", part, "--since", begin, "--until", end)
        parts += lines(part)
    whole = tmp_path / "whole.jsonl"
    fleetnet("-C", fleet, "export", whole)
    assert parts == lines(whole)


def test_what_cannot_be_done_leaves_no_file(fleet: Path, tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    for arguments, code, words in (
        ((target, "--device", "nobody"), 1, "device list"),
        ((target, "--device", "no*"), 1, "no device fits no*"),
        ((tmp_path / "x.txt",), 2, "--format csv"),
        ((target, "--since", "soon"), 2, "is no time"),
        ((tmp_path / "no" / "x.csv",), 1, "cannot be written"),
    ):
        assert words in fleetnet("-C", fleet, "export", *arguments, code=code).stderr
    target.write_text("precious")
    assert "--overwrite" in fleetnet("-C", fleet, "export", target, code=1).stderr
    assert target.read_text() == "precious"
    fleetnet("-C", fleet, "export", target, "--overwrite")
    assert target.read_text().startswith("unix_ms,device,")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fleet", "x.csv"]


def test_undated_readings_come_last_and_only_without_a_range(fleet: Path, tmp_path: Path) -> None:
    from fleetnet.frame import READINGS
    from fleetnet_server.core.bodies import Message, inspect_body
    from fleetnet_server.store.sqlite import SqliteStore

    with SqliteStore(fleet / "fleet.db") as store:
        epoch = store.epoch_id(1, b"epoch-02")
        body = b'[5,77,["temp"],[[0,0,1]]]'
        t0, t1, problem, kept = inspect_body(READINGS, body, lambda boot: None, NOW)
        store.commit([Message(1, epoch, 1, 1, READINGS, t0, t1, NOW, kept, problem)])
    target = tmp_path / "all.csv"
    fleetnet("-C", fleet, "export", target)
    rows = list(csv.DictReader(io.StringIO(target.read_text(), newline="")))
    assert (len(rows), rows[-1]["unix_ms"]) == (10, "")
    fleetnet("-C", fleet, "export", target, "--since", 0, "--overwrite")
    assert len(list(csv.DictReader(io.StringIO(target.read_text(), newline="")))) == 9


# -- cut before the last millisecond -------------------------------------------------------


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_a_cut_file_ends_before_the_moment_to_go_on_from(tmp_path: Path, form: str) -> None:
    target = tmp_path / f"x.{form}"
    with open_export(form, str(target), False) as file:
        for ms, value in ((1, 1), (2, 2), (2, 3), (3, 4), (3, 5)):
            file.write(Reading("cam-1", "temp", ms, value, 1, "00", 1))
        assert file.cut() == 3
        assert file.count == 3
    if form == "parquet":
        assert [one["number"] for one in parquet.read_table(target).to_pylist()] == [1, 2, 3]
    else:
        text = target.read_text().splitlines()
        assert len(text) == 3 + (form == "csv")
        assert '"value":3' in text[-1] or ",3," in text[-1]


def test_an_error_in_between_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "x.csv"
    target.write_text("old")
    with pytest.raises(FolderError, match="cannot be written"), open_export(
        "csv", str(target), True
    ):
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_after_ctrl_c_it_goes_on_from_where_it_ended(fleet: Path, tmp_path: Path) -> None:
    many = [(f"c{ms % 7}", ms // 3, ms) for ms in range(60_000)]
    put(fleet, "cam-3", *many)
    target = tmp_path / "x.jsonl"
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = subprocess.Popen(
        [*COMMAND, "-C", str(fleet), "export", str(target), "--json"],
        stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    signal.signal(signal.SIGINT, before)
    deadline = time.monotonic() + 30
    part = tmp_path / f".{target.name}.{process.pid}"
    while not part.exists() or not part.stat().st_size:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    said = json.loads(process.communicate(timeout=30)[0])
    assert (process.returncode, said["complete"]) == (3, False)
    first = lines(target)
    assert len(first) == said["readings"] < 60_009
    assert all(one["unix_ms"] < said["until_ms"] for one in first)
    fleetnet("-C", fleet, "export", tmp_path / "y.jsonl", "--since", said["until_ms"])
    whole = tmp_path / "whole.jsonl"
    fleetnet("-C", fleet, "export", whole)
    assert first + lines(tmp_path / "y.jsonl") == lines(whole)


# -- whatever the size ---------------------------------------------------------------------

_PEAK = """
import resource, sys
from fleetnet_server.cli.main import main
try:
    main()
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
"""


def peak_kib(*arguments: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _PEAK, *arguments], env=environment(), check=True, timeout=120,
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    return int(done.stderr.split()[-1])


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet", "query"])
def test_memory_does_not_grow_with_the_answer(empty: Path, tmp_path: Path, form: str) -> None:
    """40 times the readings, whose JSON has 60 MiB: less than 16 MiB more memory.

    Parquet holds one row group of 65,536 rows, some 20 MiB of Python's own objects.
    """
    text = "x" * 100
    put(empty, "small", *(("temp", ms, text) for ms in range(7_500)), size=200)
    put(empty, "large", *(("temp", ms, text) for ms in range(300_000)), size=200)
    peaks = []
    for name in ("small", "large"):
        if form == "query":
            peaks.append(peak_kib("-C", str(empty), "query", "--json", "--device", name))
        else:
            target = str(tmp_path / f"{name}.{form}")
            peaks.append(peak_kib("-C", str(empty), "export", target, "--device", name))
    assert peaks[1] - peaks[0] < (96 if form == "parquet" else 16) * 1024


def test_a_table_on_a_terminal_does_not_wait_for_the_end(empty: Path) -> None:
    put(empty, "cam-1", *(("temp", ms, "wide" * (ms > 250)) for ms in range(300)))
    shown = on_a_terminal("-C", empty, "query").splitlines()
    assert shown[0].replace("\x1b[1m", "").startswith("TIME")
    assert len(shown) == 301
    assert shown[-1].endswith('"wide"')


def test_a_pipe_that_closes_early_is_no_traceback(empty: Path) -> None:
    put(empty, "cam-1", *(("temp", ms, "x" * 100) for ms in range(20_000)))
    done = subprocess.run(
        ["bash", "-c", f"{' '.join(COMMAND)} -C {empty} query --json | head -n 1"],
        env=environment(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_a_bar_on_a_terminal_and_silence_elsewhere(empty: Path, tmp_path: Path) -> None:
    put(empty, "cam-1", *(("temp", ms, ms) for ms in range(30_000)))
    shown = on_a_terminal("-C", empty, "export", tmp_path / "x.csv")
    assert "exporting" in shown and "30000 readings." in shown
    assert fleetnet("-C", empty, "export", tmp_path / "y.csv").stderr == ""


def test_a_terminal_that_knows_nothing_gets_no_bar_and_no_codes(
    empty: Path, tmp_path: Path
) -> None:
    put(empty, "cam-1", *(("temp", ms, ms) for ms in range(20)))
    file = tmp_path / "x.csv"
    assert on_a_terminal("-C", empty, "export", file, TERM="dumb") == f"{file}: 20 readings.\r\n"
    for shown in ("query", "plot cam-1 temp"):
        text = on_a_terminal("-C", empty, *shown.split(), TERM="dumb")
        assert "\x1b" not in text and not text.startswith("\r")


@pytest.mark.parametrize("extra", [(), ("--every", "1h")])
def test_times_beyond_every_date_find_nothing_or_everything(
    fleet: Path, extra: tuple[str, ...]
) -> None:
    huge = "9" * 30
    assert fleetnet("-C", fleet, "query", *extra, "--since", huge).stdout == ""
    assert fleetnet("-C", fleet, "query", *extra, "--until", huge).stdout


def test_a_terminal_obeys_no_channel_in_csv(empty: Path) -> None:
    put(empty, "cam-1", ("a\x1b[2Jb", 0, 1))
    shown = on_a_terminal("-C", empty, "export", "-")
    assert "\x1b[2J" not in shown and "a [2Jb" in shown
    assert "a\x1b[2Jb" in fleetnet("-C", empty, "export", "-").stdout
