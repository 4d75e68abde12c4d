"""Commands over real sessions in virtual time: loss, duplicates, cuts, reboots of both ends.

The server of this file does what docs/protocol.md section 3.3 asks of it: on every new
session it sends again what is not answered. What counts is how often a handler began.
"""

import asyncio
import json
import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from part_device import Forgetful, PartDevice, remove, scratch  # noqa: E402
from world import OPEN, Faults, Lcg, World  # noqa: E402

from fleetnet.acceptor import HelloReceived  # noqa: E402
from fleetnet.commands import BUSY, encode_call  # noqa: E402
from fleetnet.events import Received  # noqa: E402
from fleetnet.frame import CALL, COMMANDS  # noqa: E402
from fleetnet_device.commands import Part  # noqa: E402

UNIX_MS = 1_700_000_000_000
STEP_MS = 20


class Boot(PartDevice):
    """A device of the world, until its power is cut."""

    def __init__(self, world, flash, boot):
        super().__init__(flash, boot)
        self.world = world
        self.is_dead = False

    def put(self, stream, kind, payload, readings=0):
        if not self.is_dead:
            self.world.say(stream, payload)


class CommandWorld(World):
    """A world whose server gives commands, and whose device runs them."""

    def __init__(self, seed, faults, flash, datagram, is_forgetful=False):
        super().__init__(seed, faults, datagram=datagram)
        self.flash = flash
        self.is_forgetful = is_forgetful
        self.calls = {}  # id -> (milliseconds that it takes, expires_ms)
        self.stale = set()  # ids of those that soon are
        self.sent_boot = {}
        self.began = []  # (id, unix ms)
        self.boots = 0
        self.boot_device()

    # -- the device ------------------------------------------------------------------

    def boot_device(self):
        self.boots += 1
        self.host = Boot(self, self.flash, self.boots)
        self.part = Part(self.host)
        if self.is_forgetful:
            self.part.journal = Forgetful()
        self.part.command("work")(self.work)

    async def work(self, name, takes_ms):
        host = self.host
        self.began.append((name, UNIX_MS + self.time))
        end = self.time + takes_ms
        while self.time < end and not host.is_dead:
            await asyncio.sleep(0)
        return name

    async def power_cut(self):
        host = self.host
        host.is_dead = True
        self.part.journal._path = ""  # what is cancelled now writes nothing any more
        await host.stop()
        self.reboot_device(False)
        self.boot_device()
        self.connect()

    # -- the server ------------------------------------------------------------------

    def give(self, name, takes_ms, lives_ms):
        self.calls[name] = (takes_ms, UNIX_MS + self.time + lives_ms)
        if self.server is not None and self.server.state == OPEN:
            self.send_call(self.server, name)
            self.pump("server")

    def send_call(self, session, name):
        takes_ms, expires_ms = self.calls[name]
        boot = self.sent_boot.setdefault(name, self.boots)
        if session.has_room(COMMANDS, 200):
            body = encode_call(name, "work", [name, takes_ms], expires_ms, boot)
            session.send(COMMANDS, CALL, body)

    def outcomes(self):
        """id -> [(status, value), ...] of what became durable, "busy" left out."""
        found = {}
        for (_epoch, stream, _seq), payload in self.store.order:
            if stream == COMMANDS:
                name, status, value = json.loads(payload)
                if status != BUSY:
                    found.setdefault(name, []).append((status, value))
        return found

    def _on_event(self, who, session, event):
        if who == "device" and isinstance(event, Received):
            self.part.receive(event)
            session.acknowledge(event.stream, event.seq, self.now())
            return
        super()._on_event(who, session, event)
        if isinstance(event, HelloReceived) and session.state == OPEN:
            answered = self.outcomes()
            for name in self.calls:
                if name not in answered:
                    self.send_call(session, name)

    # -- time ------------------------------------------------------------------------

    async def step(self):
        self.run(self.time + STEP_MS)
        self.host.clock.now_ms = UNIX_MS + self.time
        for _ in range(4):
            await asyncio.sleep(0)
        self.pump("device")

    async def play(self, troubles, until_ms=240_000):
        """Give a command a second; ``troubles`` are functions drawn at random meanwhile."""
        dice = Lcg(99)
        self.at(0, self.watch)
        number = 0
        while self.time < until_ms:
            await self.step()
            if number < 16 and self.time >= 700 * number:
                # Every fourth is soon stale.
                name = "c%d" % number
                if number % 4 == 3:
                    self.stale.add(name)
                self.give(name, 300, 400 if name in self.stale else 600_000)
                number += 1
            if self.time < 30_000 and troubles and dice.chance(2):
                trouble = troubles[dice.below(len(troubles))](self)
                if hasattr(trouble, "send"):
                    await trouble
            if number == 16 and self.time > 30_000:
                if len(self.outcomes()) == len(self.calls):
                    return


def cut(world):
    world.cut()


def kill_server(world):
    world.kill_server(500)
    # A server that is back answers a device that connects anew.
    world.at(world.time + 600, world.cut)


def power_cut(world):
    return world.power_cut()


async def play(seed, datagram, troubles, flash="", faults=None, is_forgetful=False):
    faults = faults or Faults(loss=20, duplicate=20, reorder=20, delay=10, jitter=10)
    world = CommandWorld(seed, faults, flash, datagram, is_forgetful)
    await world.play(troubles)
    await world.host.stop()
    return world


def check(world):
    """Nothing began twice or late, and everything had one outcome that fits."""
    names = [name for name, _ in world.began]
    assert len(names) == len(set(names)), "began twice: %r" % names
    for name, at_ms in world.began:
        assert at_ms < world.calls[name][1], "%s began after its deadline" % name
    outcomes = world.outcomes()
    assert sorted(outcomes) == sorted(world.calls), world.time
    for name, said in outcomes.items():
        assert len(set([repr(each) for each in said])) == 1, (name, said)
        status, value = said[0]
        if status == "ok":
            assert value == name and name in names
        elif status == "expired":
            assert name not in names
        else:
            # A deadline that has begun runs by the machine's clock, which a slow machine outruns.
            stopped = ("Interrupted", "Timeout") if name in world.stale else ("Interrupted",)
            assert status == "error" and value[0] in stopped, (name, said)
    return outcomes


async def test_loss_and_duplicates():
    for seed in (1, 2):
        world = await play(seed, True, ())
        assert world.lost > 0
        outcomes = check(world)
        assert len([name for name in outcomes if outcomes[name][0][0] == "ok"]) >= 12


async def test_cuts_in_the_middle():
    for datagram in (True, False):
        world = await play(3, datagram, (cut,))
        check(world)
        assert world.opened > 5


async def test_server_killed_in_the_middle():
    world = await play(4, False, (kill_server,))
    check(world)
    assert world.opened > 3


async def test_power_cuts_in_the_middle_with_a_journal():
    folder = scratch()
    try:
        world = await play(5, True, (power_cut, cut), folder)
        outcomes = check(world)
        assert world.boots > 5
        said = [outcomes[name][0][0] for name in outcomes]
        assert said.count("error") > 0 and said.count("ok") > 5, said
    finally:
        remove(folder)


async def test_power_cuts_in_the_middle_without_flash():
    world = await play(5, True, (power_cut, cut))
    check(world)
    assert world.boots > 5


async def test_control_a_device_without_a_journal_is_found():
    world = await play(5, True, (power_cut, cut), is_forgetful=True)
    try:
        check(world)
    except AssertionError as error:
        assert "began twice" in str(error), error
        return
    raise AssertionError("the check cannot see a command that runs twice")
