"""Moments on the command line: ISO 8601 with and without a zone, unix ms, ages."""

import time

import click
import pytest

from fleetnet_server.cli.times import Moment


def moment(text: str) -> int:
    return Moment().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "unix_ms"),
    [
        ("1769774400123", 1_769_774_400_123),
        ("2026-01-30", 1_769_731_200_000),
        ("2026-01-30T12:00", 1_769_774_400_000),
        ("2026-01-30 12:00:00", 1_769_774_400_000),
        ("2026-01-30T12:00:00Z", 1_769_774_400_000),
        ("2026-01-30T12:00:00.5Z", 1_769_774_400_500),
        ("2026-01-30T14:00:00+02:00", 1_769_774_400_000),
        ("2026-01-30T06:30:00-05:30", 1_769_774_400_000),
        ("20260130T120000Z", 1_769_774_400_000),
        # Across a change of the clocks: the offset counts, no time zone's rules.
        ("2026-03-29T03:00:00+02:00", 1_774_746_000_000),
    ],
)
def test_moments(text: str, unix_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for zone in ("UTC", "America/New_York", "Pacific/Auckland"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert moment(text) == unix_ms
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "age_ms"), [("2h", 7_200_000), ("90s", 90_000), ("1.5d", 129_600_000), ("500ms", 500)]
)
def test_ages(text: str, age_ms: int) -> None:
    before = time.time_ns() // 1_000_000
    found = moment(text)
    after = time.time_ns() // 1_000_000
    assert before - age_ms - 1 <= found <= after - age_ms + 1


@pytest.mark.parametrize("text", ["yesterday", "2026-13-01", "2h30", "-5", "31/01/2026", "", "inf"])
def test_what_is_no_moment_is_told_how_one_is_written(text: str) -> None:
    with pytest.raises(click.BadParameter, match="2026-01-31T12:00:00"):
        moment(text)


def test_an_age_has_an_end() -> None:
    with pytest.raises(click.BadParameter, match="30d"):
        moment("400d")
