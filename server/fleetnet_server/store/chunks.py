"""Chunks: readings of one series, one epoch and one stream, in the order of their messages.

    t0, t1    unix ms of the first and the last reading in time; t1 - t0 <= SPANS[span]
    n         readings, 1 to MAX_READINGS
    step      ms from one reading to the next when that is always the same, else NULL
    times     NULL with a step, else a JSON array: ms behind t0 of each reading
    vals      JSON array: the values, byte for byte as they were received
    runs      JSON array of [first, seq, per, place, stride]

A run covers the readings from index ``first`` to where the next run begins. Reading i of it is
in message ``seq + (i - first) // per``, where its place is ``place + (i - first) % per * stride``
(0 is the first reading of a message). A device that sends the same channels each time has one
run in a chunk.

Everything is text, so that any SQLite can read it (view ``readings``); docs/store.md shows one.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

# A chunk stays below 2 KiB: SQLite keeps a row of a WITHOUT ROWID table of that size in its
# leaf, beside its neighbours in time, when pages have 8 KiB.
MAX_READINGS = 128
MAX_VALUE_BYTES = 1024

# A search for chunks that overlap a time begins a span earlier. Four classes of spans keep
# that to some 16 rows each, however wide the widest chunk of a series is.
SPANS = tuple(4096 << (4 * span) for span in range(4))


class Place(NamedTuple):
    """One reading on its way into a chunk; ``raw`` is its value as JSON."""

    seq: int
    place: int
    unix_ms: int
    raw: bytes


class Chunk(NamedTuple):
    """One row of the table, without its series and epoch and stream."""

    span: int
    t0: int
    seq: int
    place: int
    t1: int
    n: int
    step: int | None
    times: str | None
    vals: str
    runs: str


def make_chunks(readings: Sequence[Place]) -> Iterator[Chunk]:
    """Cut readings, ordered by (seq, place), into chunks.

    Cost: about 0.5 us a reading (CPython 3.11).
    """
    start = size = 0
    low = high = readings[0].unix_ms if readings else 0
    for index, (_seq, _place, unix_ms, raw) in enumerate(readings):
        size += len(raw)
        new_low = unix_ms if unix_ms < low else low
        new_high = unix_ms if unix_ms > high else high
        if (
            index - start >= MAX_READINGS
            or new_high - new_low > SPANS[-1]
            or (size > MAX_VALUE_BYTES and index > start)
        ):
            yield _chunk(readings[start:index], low, high)
            start, size = index, len(raw)
            new_low = new_high = unix_ms
        low, high = new_low, new_high
    if start < len(readings):
        yield _chunk(readings[start:], low, high)


def _chunk(readings: Sequence[Place], low: int, high: int) -> Chunk:
    first = readings[0]
    offsets = [reading[2] - low for reading in readings]
    step = offsets[1] - offsets[0] if len(offsets) > 1 else 0
    # The first reading is then the earliest one, as in everything a sensor sends in order.
    is_even = offsets[0] == 0 and (
        offsets == list(range(0, step * len(offsets), step)) if step > 0 else not any(offsets)
    )
    return Chunk(
        next(span for span, most in enumerate(SPANS) if high - low <= most),
        low,
        first.seq,
        first.place,
        high,
        len(readings),
        step if is_even else None,
        None if is_even else msgspec.json.encode(offsets).decode(),
        (b"[" + b",".join([reading[3] for reading in readings]) + b"]").decode(),
        msgspec.json.encode(_runs(readings)).decode(),
    )


def _runs(readings: Sequence[Place]) -> list[list[int]]:
    runs: list[list[int]] = []
    shape, due = (0, 0, 0), -1  # what the last run repeats, and its next message
    at, end = 0, len(readings)
    while at < end:
        seq, place = readings[at][0], readings[at][1]
        behind = at + 1
        stride = 1
        if behind < end and readings[behind][0] == seq:
            stride = readings[behind][1] - place
            while (
                behind < end
                and readings[behind][0] == seq
                and readings[behind][1] == place + (behind - at) * stride
            ):
                behind += 1
        found = (behind - at, place, stride)
        if found != shape or seq != due:
            runs.append([at, seq, *found])
        shape, due = found, seq + 1
        at = behind
    return runs


class Decoded(NamedTuple):
    """The readings of a chunk, four lists of the same length."""

    times: list[int]  # unix ms
    values: list[Any]  # None: decode ``raws``, as the values do not decode together
    raws: list[Any]
    keys: list[tuple[int, int]]  # seq, place


_decode_numbers = msgspec.json.Decoder(list[int]).decode
_decode_runs = msgspec.json.Decoder(list[tuple[int, int, int, int, int]]).decode
_decode_values = msgspec.json.Decoder(list[Any]).decode
_decode_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode


def decode_untrusted(
    t0: int, n: int, step: int | None, times: str | None, vals: str, runs: str
) -> Decoded:
    """Decode a chunk.

    Raises:
        ValueError, msgspec.MsgspecError: it is none; the file is damaged.
    """
    if times is not None:
        at = [t0 + offset for offset in _decode_numbers(times)]
    elif step:
        at = list(range(t0, t0 + step * n, step))
    else:
        at = [t0] * n
    raws: list[Any] = []
    try:
        values = _decode_values(vals)
    except (msgspec.MsgspecError, ValueError):
        # A number beyond 64 bits, as far as this decoder goes.
        values = []
        raws = _decode_raws(vals)
    keys = _keys(_decode_runs(runs), n)
    if not len(at) == len(values or raws) == len(keys) == n:
        raise ValueError(f"a chunk of {n} readings has {len(at)} times, {len(keys)} keys")
    return Decoded(at, values, raws, keys)


def _keys(runs: list[tuple[int, int, int, int, int]], n: int) -> list[tuple[int, int]]:
    keys: list[tuple[int, int]] = []
    for number, (first, seq, per, place, stride) in enumerate(runs):
        behind = runs[number + 1][0] if number + 1 < len(runs) else n
        if first != len(keys) or behind <= first or per < 1 or behind > n:
            raise ValueError(f"run {number} of a chunk has no place in it")
        if per == 1:
            keys += [(one, place) for one in range(seq, seq + behind - first)]
        else:
            keys += [
                (seq + index // per, place + index % per * stride)
                for index in range(behind - first)
            ]
    return keys
