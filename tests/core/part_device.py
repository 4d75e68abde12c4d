"""A device without a network for tests of parts: what a part sees of Device, no more.

``crash`` forgets everything but the flash; ``settle`` lets tasks run until they wait.
"""

import asyncio
import os

from fleetnet.errors import FleetError
from fleetnet_device import saved


class Clock:
    """Server time that stands still until a test moves it."""

    def __init__(self, boot):
        self.boot = boot
        self.now_ms = 1_700_000_000_000
        self.own_boot = 0

    def server_ms(self):
        return self.now_ms

    def stamp(self):
        return self.now_ms, self.own_boot


class Frame:
    """A received message."""

    def __init__(self, payload):
        self.payload = payload
        self.seq = 1


class PartDevice:
    """One boot of a device.

    Attributes:
        sent: bodies that parts queued, as (stream, kind, payload).
        reports: (error, where) that parts reported.
    """

    def __init__(self, flash="", boot=1):
        self.flash = flash
        self.clock = Clock(boot)
        self.sent = []
        self.reports = []
        self.tasks = []
        self.is_open = True
        self.dropped = 0

    def put(self, stream, kind, payload, readings=0):
        self.sent.append((stream, kind, payload))

    def report(self, error, where):
        self.reports.append((error, where))

    def spawn(self, work):
        task = asyncio.create_task(self._guard(work))
        self.tasks.append(task)
        return task

    async def _guard(self, work):
        try:
            await work
        except Exception as error:
            self.report(error, "task")

    def take(self):
        """Bodies sent since the last call."""
        bodies = [payload for _, _, payload in self.sent]
        self.sent = []
        return bodies

    async def settle(self):
        for _ in range(50):
            await asyncio.sleep(0)

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        await self.settle()


def receive(part, payload):
    """Hand a message to a part as Device does: what it raises is the caller's to see."""
    try:
        part.receive(Frame(payload))
    except FleetError as error:
        return error
    return None


def scratch():
    """Make an empty folder for one test's flash."""
    name = "%s/fleetnet-%s" % (os.getenv("TMPDIR") or "/tmp", os.urandom(6).hex())
    os.mkdir(name)
    return name


def remove(folder):
    for name in os.listdir(folder):
        os.remove(folder + "/" + name)
    os.rmdir(folder)


def load(path):
    with open(path, "rb") as file:
        return file.read()


def store(path, data):
    with open(path, "wb") as file:
        file.write(data)


class Failing:
    """While it is entered nothing that is written reaches the flash: it is full."""

    def __enter__(self):
        self._settle = saved.settle
        saved.settle = self._fail

    def __exit__(self, kind, error, trace):
        saved.settle = self._settle

    def _fail(self, file):
        raise OSError(28)


class Forgetful:
    """A journal that keeps nothing: what would run a command twice."""

    is_complete = True

    def find(self, command_id):
        return None

    def begin(self, command_id):
        pass

    def end(self, command_id, result):
        pass
