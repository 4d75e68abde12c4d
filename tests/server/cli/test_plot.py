"""`fleetnet plot`: the curve in bounded memory, the drawing, the file."""

import json
import math
from pathlib import Path

import pytest

from fleetnet_server.cli.braille import draw
from fleetnet_server.cli.curve import Bucket, Curve
from server.cli.running import NOW, fleetnet, on_a_terminal, put


def test_a_curve_keeps_extremes_and_mean_in_bounded_memory() -> None:
    curve = Curve(64)
    total = 100_000
    for number in range(total):
        curve.add(NOW + 10 * number, number % 100)
    curve.add(NOW + 10 * total, 1000)
    buckets = curve.buckets
    assert 16 <= len(buckets) <= 64
    assert sum(one.number for one in buckets) == curve.count == total + 1
    assert (min(one.low for one in buckets), max(one.high for one in buckets)) == (0, 1000)
    whole = sum(one.mean * one.number for one in buckets) / curve.count
    assert whole == pytest.approx((49.5 * total + 1000) / (total + 1))
    assert [one.unix_ms for one in buckets] == sorted(one.unix_ms for one in buckets)


def test_what_is_no_number_is_counted() -> None:
    curve = Curve()
    for unix_ms, value in ((None, 1), (1, "x"), (2, None), (3, [1]), (1 << 53, 1), (4, 2**2000)):
        curve.add(unix_ms, value)
    curve.add(5, True)
    assert (curve.skipped, curve.count) == (6, 1)
    assert curve.buckets == [Bucket(5, 1.0, 1.0, 1.0, 1)]


def test_a_rising_line_is_drawn_from_corner_to_corner() -> None:
    buckets = [Bucket(NOW + at, at, at, at, 1) for at in range(100)]
    lines = draw(buckets, 60, 10)
    assert len(lines) == 10
    rows = [line.partition("\u2524")[2] for line in lines[:8]]
    first = [len(row) - len(row.lstrip(" \u2800")) for row in rows]
    assert first == sorted(first, reverse=True) and first[-1] == 0
    assert lines[0].lstrip().startswith("99 ") and lines[7].lstrip().startswith("0 ")
    assert "2027-01-15 08:00:00" in lines[-1]
    assert all(len(line) <= 60 for line in lines)
    assert all(line.isascii() for line in draw(buckets, 60, 10, can_braille=False))


def test_labels_have_the_digits_that_tell_them_apart() -> None:
    buckets = [Bucket(NOW + at, 1e15 + at, 1e15 + at, 1e15 + at, 1) for at in range(3)]
    lines = draw(buckets, 60, 10)
    labels = [line.partition("\u2524")[0].strip() for line in lines[:8]]
    shown = [label for label in labels if label]
    assert len(set(shown)) == 3
    assert (shown[0], shown[-1]) == ("1000000000000002", "1000000000000000")


def test_nothing_is_drawn_over_a_gap() -> None:
    times = [*range(0, 100), *range(900, 1000)]
    lines = draw([Bucket(NOW + at, 1.0, 1.0, 1.0, 1) for at in times], 100, 8)
    dots = next(line for line in lines if any("\u2800" < c <= "\u28ff" for c in line))
    row = dots.partition("\u2524")[2]
    middle = row[len(row) // 4 : 3 * len(row) // 4]
    assert middle.strip() == ""


def test_the_command(empty: Path, tmp_path: Path) -> None:
    put(empty, "cam-1", *(("temp", 1000 * at, math.sin(at / 20)) for at in range(500)),
        ("temp", 600_000, "text"))  # fmt: skip
    shown = fleetnet("-C", empty, "plot", "cam-1", "temp", "--width", 70).stdout
    assert shown.startswith("cam-1 temp: 500 readings, 1 skipped\n")
    assert len(shown.splitlines()) == 17 and "\x1b" not in shown
    found = json.loads(fleetnet("-C", empty, "plot", "cam-1", "temp", "--json").stdout)
    assert (found["readings"], found["skipped"], len(found["points"])) == (500, 1, 500)
    assert found["points"][3] == {
        "unix_ms": NOW + 3000, "min": math.sin(0.15), "mean": math.sin(0.15),
        "max": math.sin(0.15), "count": 1,
    }  # fmt: skip
    part = fleetnet("-C", empty, "plot", "cam-1", "temp", "--json", "--since", NOW + 1000,
                    "--until", NOW + 3000)  # fmt: skip
    assert [one["unix_ms"] - NOW for one in json.loads(part.stdout)["points"]] == [1000, 2000]
    picture = tmp_path / "x.png"
    fleetnet("-C", empty, "plot", "cam-1", "temp", "--png", picture)
    assert picture.read_bytes().startswith(b"\x89PNG\r\n") and picture.stat().st_size > 5000
    coloured = on_a_terminal("-C", empty, "plot", "cam-1", "temp")
    assert "\x1b[36m" in coloured
    assert "\x1b" not in on_a_terminal("-C", empty, "plot", "cam-1", "temp", NO_COLOR="1")


def test_what_cannot_be_drawn(empty: Path, tmp_path: Path) -> None:
    put(empty, "cam-1", ("text", 0, "x"), ("temp", 1, 1))
    for arguments, code, words in (
        (("cam-1", "text"), 1, "1 reading without number"),
        (("cam-1", "none"), 1, "no numbers of 'none'"),
        (("cam-*", "temp"), 1, "not registered"),
        (("cam-1", "temp", "--png", tmp_path / "x.txt"), 2, "has to end with .png"),
        (("cam-1", "temp", "--png", tmp_path / "no" / "x.png"), 1, "cannot be written"),
    ):
        assert words in fleetnet("-C", empty, "plot", *arguments, code=code).stderr


def test_a_terminal_without_braille_gets_ascii(empty: Path) -> None:
    put(empty, "cam-1", ("temp", 0, 1), ("temp", 1, 2))
    shown = fleetnet("-C", empty, "plot", "cam-1", "temp", PYTHONIOENCODING="ascii").stdout
    assert shown.isascii() and "*" in shown


def test_a_hostile_channel_commands_no_terminal(empty: Path) -> None:
    name = "\x1b]0;owned\x07"
    put(empty, "cam-1", (name, 0, 1), (name, 1, 2))
    assert "\x1b]" not in on_a_terminal("-C", empty, "plot", "cam-1", name, NO_COLOR="1")
    assert "\x07" not in fleetnet("-C", empty, "plot", "cam-1", name).stdout
