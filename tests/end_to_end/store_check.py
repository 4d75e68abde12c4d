"""What a store must hold after devices have sent readings to it, whatever happened."""

from collections import Counter, defaultdict
from pathlib import Path
from typing import NamedTuple

from fleetnet_server.store import schema
from fleetnet_server.store.query import query


class Account(NamedTuple):
    """What one device says of itself: readings are pairs of temperature and count."""

    name: str
    sent: int
    acknowledged: int
    dropped: int = 0


def faults_of(store: Path, accounts: list[Account], has_dates: bool = True) -> list[str]:
    """Compare a store with what devices say, one run of a device program each; [] is good.

    Nothing lost: sent = acknowledged = stored. Nothing twice: each key (epoch, stream, seq)
    once, each count once. Order: counts and seq ascend by time, and seq ascends by commit.

    Args:
        has_dates: False: of a device without a date the server reckons the time, from the HELLO of
            each session, which may have been on its way for longer than the one before. Counts
            ascend by seq then.
    """
    faults = []
    found = defaultdict(list)
    for reading in query(store):
        found[reading.device].append(reading)
    for name, sent, acknowledged, dropped in accounts:
        readings = found[name]
        if not has_dates:
            readings.sort(key=lambda reading: reading.seq)
        counting = [reading for reading in readings if reading.channel == "count"]
        counts = [reading.value for reading in counting]
        numbers = [reading.seq for reading in counting]
        if not 0 < sent == acknowledged == len(readings) or dropped:
            faults.append(
                f"{name}: {sent} sent, {acknowledged} acknowledged, {len(readings)} stored, "
                f"{dropped} dropped"
            )
        lost = sorted(set(range(sent // 2)) - set(counts))
        doubled = [value for value, times in Counter(counts).items() if times > 1]
        if lost:
            faults.append(f"{name}: counts {lost[:5]} are lost, {len(lost)} in all")
        if doubled:
            faults.append(f"{name}: counts {doubled[:5]} are there twice, {len(doubled)} in all")
        if counts != sorted(counts) or numbers != sorted(numbers):
            faults.append(f"{name}: counts are out of order")
    return faults + faults_of_keys(store)


def faults_of_keys(store: Path) -> list[str]:
    """The messages by themselves: no key twice, and in order of commit for each stream."""
    faults = []
    last: dict[tuple[int, int], int] = {}
    connection = schema.open_readable(store)
    try:
        for epoch, stream, seq in connection.execute(
            "SELECT epoch, stream, seq FROM messages ORDER BY id"
        ):
            if seq <= last.get((epoch, stream), 0):
                faults.append(f"epoch {epoch}, stream {stream}: {seq} is doubled or out of order")
            last[epoch, stream] = seq
        for (gaps,) in connection.execute("SELECT count(*) FROM gaps"):
            if gaps:
                faults.append(f"{gaps} gaps were noted: a device gave messages up")
    finally:
        connection.close()
    return faults


def longest_silence_s(store: Path) -> dict[str, float]:
    """The longest time between two arrivals of each device's messages, in seconds."""
    longest: dict[str, float] = {}
    before: dict[str, int] = {}
    connection = schema.open_readable(store)
    try:
        for name, received in connection.execute(
            "SELECT d.name, m.received FROM messages AS m JOIN devices AS d ON d.id = m.device"
            " ORDER BY m.received"
        ):
            silence = (received - before.get(name, received)) / 1000
            longest[name] = max(longest.get(name, 0.0), silence)
            before[name] = received
    finally:
        connection.close()
    return longest
