"""tests/proof/day.py in small: an hour of twenty devices, through every command.

It takes some seconds, because each of its eleven commands is a process, as a user starts it.
"""

from pathlib import Path

from proof.day import Day


def test_an_hour_of_twenty_devices(tmp_path: Path) -> None:
    day = Day(tmp_path, devices=20, hours=1, rate=1 / 60)
    day.run()
    assert day.faults == []
    assert day.readings == 2 * 20 * 60
    # What is not there is missed.
    day.readings += 20
    day.query()
    assert len(day.faults) == 1, day.faults
