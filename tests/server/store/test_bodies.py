"""Inspection of bodies: dates, problems, and nothing good that SQLite cannot read."""

import json
import random
import sqlite3
from typing import Any

import pytest

from fleetnet import frame
from fleetnet.commands import encode_log
from fleetnet.frame import (
    CONFIG_STATE,
    EVENT,
    LOG,
    OPTIONAL,
    RAW,
    READINGS,
    RELAY,
    RESULT,
)
from fleetnet.raw import encode_raw
from fleetnet.readings import ReadingBatch, encode_event
from fleetnet_server.core.bodies import decode_answer, decode_raw_untrusted, inspect_body
from rules.tree import ROOT

NOW = 1_800_000_000_000
VECTORS = json.loads((ROOT / "tests" / "core" / "vectors.json").read_text(encoding="utf-8"))


def unknown(boot: int) -> None:
    return None


def test_a_batch_of_the_device_library_is_good() -> None:
    batch = ReadingBatch(4096, 100)
    batch.add("t", 21.5, 1_000)
    batch.add("état", {"a": [1, None, True]}, 1_500)
    batch.add("t", "x", 1_200)
    found = inspect_body(READINGS, batch.to_payload(), unknown, NOW)
    assert found == (1_000, 1_500, None, batch.to_payload().decode())


def test_a_boot_is_dated_by_its_offset_or_not_at_all() -> None:
    body = b'[500,7,["t"],[[0,20,1],[0,10,2]]]'
    assert inspect_body(READINGS, body, {7: 1_000}.get, NOW)[:3] == (1_510, 1_520, None)
    assert inspect_body(READINGS, body, unknown, NOW)[:3] == (None, None, None)
    event = encode_event("door", True, 500, boot=7)
    assert inspect_body(EVENT, event, {7: 1_000}.get, NOW)[:3] == (1_500, 1_500, None)
    raw = encode_raw("cam", b"\xff\xd8", 500, boot=7)
    assert inspect_body(RAW, raw, {7: 1_000}.get, NOW) == (1_500, 1_500, None, raw)


def test_raw_round_trip() -> None:
    raw = decode_raw_untrusted(encode_raw("café", b"\x00\xff", 1_800_000_000_123, 300, 22))
    assert raw == (22, "café", 1_800_000_000_123, 300, b"\x00\xff")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"[1,0,[],[]",
        b'[1,0,["t"],[[1,0,2]]]',  # channel index behind the end
        b'[1,0,["t"],[[0,0,1],[1,0,2]]]',
        b'[1,0,["t"],[[0,-1,2]]]',
        b'[-1,0,["t"],[[0,0,2]]]',
        b'[1.5,0,["t"],[[0,0,2]]]',
        b'[9007199254740993,0,["t"],[[0,0,2]]]',
        b'[1,0,[""],[[0,0,2]]]',
        b'[1,0,["' + b"c" * 65 + b'"],[[0,0,2]]]',
        b'[1,0,["t"],[[0,0,NaN]]]',
        b'[1,0,["t"],[[0,0,"\xff"]]]',
        b'[1,0,["t"],[[0,0,"a\nb"]]]',
        b'[1,0,["t"],[[0,0,' + b"[" * 65 + b"]" * 65 + b"]]]",
        b'[1,0,["t"],[[0,0,' + b"[" * 20_000 + b"]" * 20_000 + b"]]]",
    ],
)
def test_bad_readings_are_kept_with_their_problem(body: bytes) -> None:
    t0, t1, problem, stored = inspect_body(READINGS, body, unknown, NOW)
    assert (t0, t1, stored) == (NOW, NOW, body)
    assert problem


def test_depth_counts_structure_not_text() -> None:
    body = b'[1,0,["t"],[[0,0,["' + b"[" * 500 + b'\\"{"]]]]'
    assert inspect_body(READINGS, body, unknown, NOW).problem is None
    flat = b'[1,0,["t"],[[0,0,[' + b",".join([b"[]"] * 500) + b"]]]]"
    assert inspect_body(READINGS, flat, unknown, NOW).problem is None
    deep = b'[1,0,["t"],[[0,0,' + b"[" * 64 + b"]" * 64 + b"]]]"
    assert inspect_body(READINGS, deep, unknown, NOW).problem is None


@pytest.mark.parametrize(
    "body", [b"", b"\x2a", b"\x2a\x05ab", b"\x2a\x00\x01\x00", b"\x2a\x01\xff"]
)
def test_bad_raw_is_kept_with_its_problem(body: bytes) -> None:
    found = inspect_body(RAW, body, unknown, NOW)
    assert found.problem
    assert found.body == body


def test_logs_are_dated() -> None:
    body = encode_log(1_000, 0, [(0, "info", "a"), (250, "error", "b"), (30, "debug", "c")])
    assert inspect_body(LOG, body, unknown, NOW) == (1_000, 1_250, None, body.decode())
    assert inspect_body(LOG, encode_log(9, 0, []), unknown, NOW)[:3] == (9, 9, None)
    body = encode_log(500, 7, [(20, "info", "a")])
    assert inspect_body(LOG, body, {7: 1_000}.get, NOW)[:3] == (1_520, 1_520, None)
    assert inspect_body(LOG, body, unknown, NOW)[:3] == (None, None, None)


@pytest.mark.parametrize("vector", VECTORS["bodies"], ids=lambda vector: vector["name"])
def test_good_bodies_of_the_protocol(vector: dict[str, Any]) -> None:
    body = vector["text"].encode()
    kind = getattr(frame, vector["type"])
    if kind in (LOG, RESULT, CONFIG_STATE):
        found = inspect_body(kind, body, {7: 0}.get, NOW)
        assert (found.problem, found.body) == (None, vector["text"])
    if kind in (RESULT, CONFIG_STATE):
        answer = decode_answer(kind, body)
        assert [answer.key, answer.status, json.loads(answer.value)] == vector["values"]


@pytest.mark.parametrize("vector", VECTORS["refused_bodies"], ids=lambda vector: vector["name"])
def test_refused_bodies_of_the_protocol(vector: dict[str, Any]) -> None:
    body = vector["text"].encode()
    kind = getattr(frame, vector["type"])
    if kind in (LOG, RESULT, CONFIG_STATE):
        found = inspect_body(kind, body, unknown, NOW)
        assert found == (NOW, NOW, found.problem, body)
        assert found.problem


def test_other_kinds_are_bytes_dated_by_arrival() -> None:
    assert inspect_body(RELAY, b"\xffhello", unknown, NOW) == (NOW, NOW, None, b"\xffhello")
    good = b'[1,0,["t"],[[0,0,2]]]'
    assert inspect_body(READINGS | OPTIONAL, good, unknown, NOW) == (1, 1, None, good.decode())


def test_mutated_bodies_are_refused_or_readable_by_sqlite() -> None:
    draw = random.Random(20261121)
    seed = b'[1700000000000,0,["t","\\u00e9"],[[0,0,{"a":[1,-2.5e3,null]}],[1,5,"x\\n\xc3\xa9"]]]'
    database = sqlite3.connect(":memory:")
    good = 0
    for _round in range(20_000):
        body = bytearray(seed)
        for _change in range(draw.randint(1, 3)):
            at = draw.randrange(len(body))
            body[at : at + draw.randint(0, 2)] = draw.choice(
                [b"", b"[", b"]", b'"', b"\\", b",", b"0", b"e", b"\x00", b"\xc3", b"{", b" "]
            )
        found = inspect_body(READINGS, bytes(body), unknown, NOW)
        if found.problem is None:
            good += 1
            assert database.execute("SELECT json_valid(?)", (found.body,)).fetchone() == (1,)
            json.loads(found.body)
    database.close()
    assert good > 100
