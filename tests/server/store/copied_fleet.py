"""A store file with a row of everything in each table: what a copy has to bring over."""

import json
import random
from pathlib import Path

import apsw

from fleetnet.frame import CONFIG_STATE, EVENT, LOG, RAW, READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.core.relay_ports import Relayed
from fleetnet_server.store.compaction import Compactor, Pace
from fleetnet_server.store.outbox import Outbox
from fleetnet_server.store.sqlite import SqliteStore

# A Monday; partitions of a week begin on a Thursday.
NOW = 1_790_553_600_000
DAY_MS = 86_400_000
EPOCH = b"epoch-01"

VALUES = (
    "20.5", "21", "21.0", "-0.0", "0", "1e300", "-1e-300", "9007199254740993", "1e999", '"open"',
    "18446744073709551616", "true", "null", "[1,2]", '{"a":1.50}', '"\\u0000"', "-7", "0.1",
)  # fmt: skip
CHANNELS = ["temp", "hum", "st\u00e4te", "nul\0"]

_PACE = Pace(delay_ms=0, wait_ms=0, window_rows=20_000, device_rows=8_000, step_rows=4_000)

_CONTROL = f"""
INSERT INTO certificates VALUES('0a', 1, 1, 2, NULL, NULL, 'server', 1),
    ('0b', 1, 1, 2, 5, 'lost', 'device', 2);
INSERT INTO identities(device, number, serial, marks, pins, state, offered_ms)
    VALUES(1, 1, '0a', 'm', 'p q', 'working', 5), (2, 1, NULL, 'm', 'p', 'offered', 6);
INSERT INTO renewals VALUES(2, 7);
INSERT INTO psks VALUES('cam-01.1', 1, x'00ff27', 1, NULL, 0);
INSERT INTO claims VALUES(3, 'feed', 1, {NOW}, NULL, NULL);
INSERT INTO tokens VALUES('grafana', 'beef', 'read live', 1, NULL, 9);
INSERT INTO hubs VALUES(2, 1, 5, NULL);
INSERT INTO commands(id, device, name, args, created_ms, expires_ms)
    VALUES('c1', 1, 'blink', '{{"n": 3}}', 1, {NOW}), ('c2', 2, 'reboot', '[]', 2, 3);
UPDATE commands SET state = 'ok', ended_ms = 9, result = '"\\u0000"' WHERE id = 'c2';
INSERT INTO configs VALUES(1, 4, 2, '{{"every": 5}}', 8, 2, 'applied', '{{}}', 9);
INSERT INTO blobs(device, number, name, content_format, size, sha256, received_ms, path)
    VALUES(1, 1, 'frame', 22, 4, 'abcd', 5, 'ab/cd');
INSERT INTO restores VALUES(5, 4, 3);
INSERT INTO rollups SELECT id, 60000, 60000, 2, 1, 1.5, 2.5, 4.0 FROM series;
"""


def make_fleet(path: Path, readings: int, seed: int = 1, devices: int = 8) -> None:
    """Write a store: four fifths of it compacted, some of that still needed by a bridge."""
    rng = random.Random(seed)
    with SqliteStore(path) as store:
        for number in range(1, devices + 1):
            store.add_device(f"cam-{number:02}")
        outbox = Outbox(store, "mqtt")
        outbox.start(keep_ms=1 << 50)
        compactor = Compactor(store, _PACE, lambda: NOW + 1)
        messages = list(_messages(store, rng, devices, readings))
        cut = len(messages) * 4 // 5
        _commit(store, messages[:cut])
        outbox.move(cut // 2, 1 << 50, 7, 1)
        while compactor.step():
            pass
        compactor.close()
        _commit(store, messages[cut:])
        _odd_streams(store)
        store.set_boot(3, 9, NOW)
        store.commit([])
        store.transact(_control)
        outbox.close()
        assert store.read("SELECT count(*) FROM chunks")[0][0] and store.read(
            "SELECT count(*) FROM held"
        )


def _control(connection: apsw.Connection) -> None:
    connection.execute(_CONTROL)
    connection.execute("UPDATE devices SET state = 'quarantined' WHERE id = 4")
    connection.execute("""UPDATE devices SET labels = '{"site": "K\u00f6ln"}' WHERE id = 1""")


def _messages(store: SqliteStore, rng: random.Random, devices: int, readings: int):  # type: ignore[no-untyped-def]
    """Yield messages of 20 readings, and now and then one that is something else."""
    seqs = dict.fromkeys(range(1, devices + 1), 0)
    count = 0
    while count < readings:
        for device in seqs:
            seqs[device] += 1
            seq = seqs[device]
            at = NOW - 20 * DAY_MS + count * 997 % (20 * DAY_MS)
            kind, body = _body(rng, device, seq, at)
            count += 20 if kind == READINGS else 0
            yield _message(store, device, 1, seq, kind, body)


def _body(rng: random.Random, device: int, seq: int, at: int) -> tuple[int, bytes]:
    if seq % 50 == 7:
        return EVENT, b'[%d,0,"door",1]' % at
    if seq % 50 == 8:
        return LOG, b'[%d,0,[[0,"info","started\\u0000"]]]' % at
    if seq % 50 == 9:
        return RAW, b"\x2a\x04temp\x00\x00\xff\xfe"
    if seq % 50 == 10:
        return READINGS, b"[no readings"
    if seq % 50 == 11:
        return CONFIG_STATE, b'[1,"applied",{}]'
    # Of device 3 a boot that is dated later, and one that never is.
    boot = {3: 9, 5: 4}.get(device, 0) if seq % 10 == 3 else 0
    base = seq * 1000 if boot else at
    items = [[rng.randrange(4), place * rng.choice((100, 250)), place] for place in range(20)]
    values = [rng.choice(VALUES) if rng.random() < 0.3 else f"{rng.random():.4f}" for _ in items]
    text = ",".join(f"[{i},{dt},{v}]" for (i, dt, _), v in zip(items, values, strict=True))
    channels = json.dumps(CHANNELS, ensure_ascii=False)
    return READINGS, f"[{base},{boot},{channels},[{text}]]".encode()


def _message(
    store: SqliteStore, device: int, stream: int, seq: int, kind: int, body: bytes,
    epoch: bytes = EPOCH,
) -> Message:  # fmt: skip
    found = inspect_body(kind, body, lambda boot: None, NOW + seq)
    t0, t1, problem, kept = found
    number = store.epoch_id(device, epoch)
    received = NOW - 5 * DAY_MS + seq * 1000
    return Message(device, number, stream, seq, kind, t0, t1, received, kept, problem)


def _commit(store: SqliteStore, messages: list[Message]) -> None:
    for at in range(0, len(messages), 512):
        store.commit(messages[at : at + 512])


def _odd_streams(store: SqliteStore) -> None:
    """A noted gap, numbers that a hub still has, and one that it brought."""
    body = b'[%d,0,["t"],[[0,0,1.5]]]' % NOW
    epoch = store.epoch_id(2, EPOCH)
    store.note_gap(2, epoch, 3, 4, 6)
    store.commit([_message(store, 2, 3, seq, READINGS, body) for seq in (1, 2, 3, 7, 11, 12, 14)])
    # Numbers of fragments: device 3 has no hub, and nothing comes late of it.
    store.commit([_message(store, 3, 5, seq, READINGS, body) for seq in (4, 9)])
    carried = Relayed(*_message(store, 2, 4, 1, READINGS, body))
    carried.carrier, carried.hub = (store.epoch_id(1, EPOCH), 2, 9), 1
    store.commit([carried])
