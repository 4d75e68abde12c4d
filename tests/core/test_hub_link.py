"""Messages of sensors at a hub: whatever a sensor sends, its program gets readings or nothing."""

from fleetnet.frame import EVENT, OPTIONAL, RAW, READINGS
from fleetnet.hub import Sensor
from fleetnet.hub_link import Message
from fleetnet.readings import encode_event, encode_raw


class Frame:
    def __init__(self, kind, payload):
        self.kind = kind
        self.payload = payload
        self.stream = 1
        self.seq = 7


def heard(kind, payload, boot=0, offset_ms=0):
    message = Message(Sensor("cam-01"), b"epoch", Frame(kind, payload), boot, offset_ms)
    return [
        (each.kind, each.channel, each.unix_ms, each.value, each.seq) for each in message.readings()
    ]


def test_readings_events_and_raw_bytes():
    batch = b'[1000,0,["t","h"],[[0,0,21.5],[1,10,{"a":1}]]]'
    assert heard(READINGS, batch) == [
        ("reading", "t", 1000, 21.5, 7),
        ("reading", "h", 1010, {"a": 1}, 7),
    ]
    assert heard(EVENT, encode_event("started", None, 5, 0)) == [("event", "started", 5, None, 7)]
    assert heard(RAW, encode_raw("c", b"\x00\x01", 5, 0, 42)) == [("raw", "c", 5, b"\x00\x01", 7)]
    assert heard(READINGS | OPTIONAL, batch) == heard(READINGS, batch)


def test_times_of_an_unset_clock_are_dated_where_the_boot_is_known():
    batch = b'[1000,9,["t"],[[0,0,1]]]'
    assert heard(READINGS, batch, 9, 500_000) == [("reading", "t", 501_000, 1, 7)]
    assert heard(READINGS, batch, 9, 0) == [("reading", "t", None, 1, 7)]
    assert heard(READINGS, batch, 8, 500_000) == [("reading", "t", None, 1, 7)]


def test_what_breaks_the_rules_is_nothing_and_raises_nothing():
    for body in (
        b"",
        b"\xff\xfe",
        b"{}",
        b"[[]",
        b"[" * 8000,
        b"[" * 4000 + b"]" * 4000,
        b"[1,0]",
        b"[1,0,5,[[0,0,1]]]",
        b'[1,0,["a"],[[1,0,1]]]',
        b'[1,0,["a"],[{"x":1}]]',
        b"[1,0,[5],[[0,0,1]]]",
        b'[1,0,{"a":"b"},[["c",0,1]]]',
        b'["s",0,["a"],[[0,"t",1]]]',
        b'[null,0,["a"],[[0,0,1]]]',
        b'[1e9,0,["a"],[[0,0,1]]]',
    ):
        assert heard(READINGS, body) == [], body
    for body in (b"{}", b'[1,0,"a"]', b"[1,0,5,null]", b'["1",0,"a",null]', b"[" * 8000):
        assert heard(EVENT, body) == [], body
    for body in (b"", b"\x2a", b"\x2a\x05ab", b"\x2a\x01\xff\x01\x00", b"\xff" * 12):
        assert heard(RAW, body) == [], body
