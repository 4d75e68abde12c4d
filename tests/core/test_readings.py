"""Bodies of READINGS, EVENT and RAW."""

import json

from fleetnet.raw import encode_raw
from fleetnet.readings import ReadingBatch, encode_event, encode_value


def refuses(action):
    try:
        action()
    except ValueError:
        return True
    return False


def test_batch_layout():
    batch = ReadingBatch(1000, 10)
    assert batch.add("t", 21.5, 1_700_000_000_000)
    assert batch.add("ü", None, 1_700_000_000_007)
    assert batch.add("t", [1, "a"], 1_700_000_000_007)
    base_ms, boot, channels, readings = json.loads(batch.to_payload())
    assert (base_ms, boot, channels) == (1_700_000_000_000, 0, ["t", "ü"])
    assert readings == [[0, 0, 21.5], [1, 7, None], [0, 7, [1, "a"]]]
    batch.clear()
    assert json.loads(batch.to_payload()) == [0, 0, [], []]


def test_a_batch_never_outgrows_its_limit():
    for limit in (60, 100, 333, 1100):
        batch = ReadingBatch(limit, 1000)
        count = 0
        while batch.add("channel-%d" % (count % 5), count * 1.25, 1_700_000_000_000 + count * 250):
            count += 1
        assert count and len(batch.to_payload()) <= limit, limit


def test_what_belongs_into_the_next_batch():
    batch = ReadingBatch(1000, 2)
    assert batch.add("t", 1, 1000, 5)
    assert not batch.add("t", 1, 999, 5)  # the clock went back
    assert not batch.add("t", 1, 1000, 6)  # another boot
    assert not batch.add("t", 1, 1000)  # the clock became known
    assert batch.add("t", 1, 1000, 5)
    assert not batch.add("t", 1, 1001, 5)  # full by count
    assert batch.count == 2
    assert json.loads(batch.to_payload())[:2] == [1000, 5]


def test_refused_values():
    for value in (float("nan"), float("inf"), -float("inf")):
        assert refuses(lambda: encode_value(value))
        assert refuses(lambda: encode_event("e", value, 1))
    batch = ReadingBatch(100, 10)
    assert refuses(lambda: batch.add("t", "x" * 200, 1))
    assert batch.count == 0 and batch.add("t", "x", 1)


def test_event_and_raw():
    assert json.loads(encode_event('say "x"', {"a": 1}, 5, 6)) == [5, 6, 'say "x"', {"a": 1}]
    body = encode_raw("ö", b"\x00\xff", 300, 2, 22)
    assert body == bytes((22, 2)) + "ö".encode() + b"\xac\x02\x02\x00\xff"
