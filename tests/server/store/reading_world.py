"""A store of either kind, filled with the same messages: both have to give the same answers."""

import random
from pathlib import Path
from typing import Any

from fleetnet.frame import EVENT, LOG, READINGS
from fleetnet_server.core.bodies import Message, inspect_body
from fleetnet_server.store.opening import open_store
from fleetnet_server.store_place import StorePlace

NOW = 1_800_000_000_000
HOUR = 3_600_000
VALUES = (
    "1", "-7", "21.0", "21.5", "0", "-0.0", "0.1", "1e300", "1e999", "-1e308", "1e-320", "true",
    "false", "null", '"open"', '""', "[1,2.0]", '{"a":{"b":[]}}', "9007199254740991",
    "9007199254740993", "-123456789012345678901234567890", "9" * 400, '"\\u00e9\\u0000"',
)  # fmt: skip


class World:
    """An open store of three devices, the third of them quarantined at the end."""

    def __init__(self, place: StorePlace, folder: Path):
        self.place = place
        self.folder = folder
        self.store: Any = open_store(place)
        self.offsets: dict[tuple[int, int], int] = {}
        self._epochs: dict[tuple[int, bytes], int] = {}
        for name in ("cam-1", "cam-2", "hall"):
            self.store.add_device(name)

    def close(self) -> None:
        self.store.close()

    def transact(self, sql: str, *values: Any) -> Any:
        return self.store.transact(lambda connection: connection.execute(sql, values).fetchall())

    def epoch(self, device: int, epoch: bytes) -> int:
        """Return the number of an epoch; both kinds of store count them alike."""
        key = (device, epoch)
        if key not in self._epochs:
            ((number,),) = self.transact(
                "INSERT INTO epochs(device, epoch) VALUES(?, ?) RETURNING id", device, epoch
            )
            self._epochs[key] = number
        return self._epochs[key]

    def message(
        self, device: int, seq: int, body: str | bytes, *, kind: int = READINGS, stream: int = 3,
        epoch: bytes = b"epoch-01", received: int = NOW,
    ) -> Message:  # fmt: skip
        data = body.encode() if isinstance(body, str) else body
        found = inspect_body(kind, data, lambda boot: self.offsets.get((device, boot)), received)
        number = self.epoch(device, epoch)
        t0, t1, problem, kept = found
        return Message(device, number, stream, seq, kind, t0, t1, received, kept, problem)

    def put(self, device: int, seq: int, body: str | bytes, **more: Any) -> None:
        self.store.commit([self.message(device, seq, body, **more)])

    def reading(self, device: int, seq: int, value: Any, at: int = NOW) -> None:
        self.put(device, seq, f'[{at},0,["t"],[[0,0,{value}]]]')

    def date(self, device: int, boot: int, offset: int) -> None:
        self.offsets.setdefault((device, boot), offset)
        self.store.set_boot(device, boot, offset)
        self.store.commit([])


def fill(world: World) -> None:
    """Store overlapping messages, dated and not, of all kinds; and what retention left."""
    draw = random.Random(11)
    # Where sums end at the largest number depends on their order: once is enough.
    usual = [value for value in VALUES if value != "-1e308"]
    for name, boot, offset in (("cam-1", 7, NOW - 50_000), ("cam-2", 8, NOW - 9_000)):
        device = 1 if name == "cam-1" else 2
        world.put(device, 1, f'[{3_000},{boot},["t","up"],[[0,5,1.5],[1,9,2],[0,5,3]]]', stream=4)
        world.date(device, boot, offset)
        world.put(device, 2, f'[{4_000},{boot},["t"],[[0,0,10]]]', stream=4)
    for seq in range(1, 90):
        device = draw.choice((1, 2, 3))
        base = NOW + draw.randrange(0, 40_000_000, 1000)
        span = draw.choice((0, 5_000, 600_001, 3_000_000))
        items = [
            f"[{draw.randrange(3)},{draw.randint(0, span) // 1000 * 1000},{draw.choice(usual)}]"
            for _reading in range(draw.randint(0, 6))
        ]
        epoch = draw.choice((b"epoch-01", b"epoch-02"))
        body = f'[{base},0,["t","h","door é"],[{",".join(items)}]]'
        world.put(device, seq, body, epoch=epoch, received=NOW + seq)
    for seq, value in enumerate(VALUES, 1):
        world.put(1, seq, f'[{NOW - 1000 * seq},0,["odd"],[[0,0,{value}]]]', stream=5)
    world.put(2, 97, "[", received=NOW + 99)
    world.put(1, 98, '[100,9,["t","late"],[[1,5,1],[0,0,2]]]')
    world.put(2, 98, '[50,9,["t"],[[0,5,2]]]')
    world.put(1, 40, '[5,0,["t"],[[0,0,1]]]', stream=6)  # a clock that was never set
    for device in (2, 1):  # at one time: the order of epochs is not that of names
        world.put(device, 1, f'[{NOW},0,["t"],[[0,7,{device}]]]', epoch=b"epoch-00")
    # In the first half of a minute that is summed up.
    world.put(1, 2, f'[{NOW + 70_000},0,["t"],[[0,0,5]]]', epoch=b"epoch-00")
    for seq, number in enumerate((1, 2, 3, 3, 5), 1):
        world.put(1, seq, f'[{NOW + seq},0,["count"],[[0,0,{number}]]]', stream=7)
    _events(world)
    _sums(world)
    world.transact("UPDATE devices SET state = 'quarantined' WHERE name = 'hall'")
    world.transact("UPDATE devices SET state = 'removed' WHERE name = 'nobody'")


def _events(world: World) -> None:
    for seq in range(1, 8):
        device = 1 + seq % 3
        body = f'[{NOW + seq // 2},0,"door-{seq}",{{"n":{seq}}}]'
        world.put(device, seq, body, kind=EVENT, stream=1)
        lines = f'[[0,"info","line {seq}"],[2,"error","\\u00fc"],[1,"debug",""]]'
        boot = 9 if seq == 4 else 0
        world.put(device, seq, f"[{NOW + 10 * seq},{boot},{lines}]", kind=LOG, stream=2)


def _sums(world: World) -> None:
    """Two series whose older minutes and hours were summed up."""
    for device, channel in ((1, "t"), (2, "kept")):
        world.transact(
            "INSERT INTO series(device, channel) VALUES(?, ?) ON CONFLICT(device, channel)"
            " DO NOTHING", device, channel,
        )  # fmt: skip
        ((series,),) = world.transact(
            "SELECT id FROM series WHERE device = ? AND channel = ?", device, channel
        )
        start = NOW - NOW % HOUR
        rows = [(HOUR, start - 2 * HOUR + HOUR * n, 10 + n) for n in range(2)]
        rows += [(60_000, start + 60_000 * n, n) for n in range(5)]
        for step, t, count in rows:
            low, high = (None, None) if not count else (-1.5, 2.0 * count)
            world.transact(
                "INSERT INTO rollups(series, step, t, n, other, low, high, total)"
                " VALUES(?, ?, ?, ?, 1, ?, ?, ?)", series, step, t, count, low, high, 1.5 * count,
            )  # fmt: skip
