"""Run by MicroPython: the spool on littlefs and FAT, with the power cut at block writes.

    micropython spool_on_vfs.py ROOT FILESYSTEM STRIDE [careless]

Prints ``cuts N bad M``, then one line for each bad case. The block device is RAM; after a given
number of block writes it keeps half of the next one and nothing more. ``careless`` is the known
bad control: it promises messages that were not written yet.
"""

import os
import sys

import vfs

ROOT, KIND, STRIDE = sys.argv[1], sys.argv[2], int(sys.argv[3])
CARELESS = sys.argv[4:] == ["careless"]
sys.path[:0] = [ROOT, ROOT + "/device_lib"]

from ram_disk import RamDisk  # noqa: E402

from fleetnet.errors import FleetError  # noqa: E402
from fleetnet.session import Session  # noqa: E402
from fleetnet_device import spool_ram  # noqa: E402
from fleetnet_device.spool import Spool  # noqa: E402
from fleetnet_device.spool_outbox import SpooledOutbox  # noqa: E402

MESSAGES = 150
QUOTA = 12000


def message(n):
    return b"message %d %s" % (n, b"." * (n * 37 % 90))


def life(device, begin, promised):
    """Put messages on the flash until the power goes; ``promised[0]``: how many it must keep."""
    spool = Spool("/ram/spool", QUOTA)
    outbox = SpooledOutbox(spool, 1 << 16, 256)
    session = Session(os.urandom, outbox.epoch())
    outbox.restore(session)
    for n in range(begin, MESSAGES):
        outbox.put(session, 3, 16, message(n), 1)
        if CARELESS and not device.is_dead:
            promised[0] = n + 1
        if n % 5 == 4:
            while spool.write(outbox, session):
                pass
            if not device.is_dead and spool_ram.oldest(outbox) is None:
                promised[0] = n + 1
            if device.is_dead:
                break


def read():
    log = Spool("/ram/spool", QUOTA).log
    found = []
    while True:
        record = log.peek()
        if record is None:
            return found
        found.append(record.payload)
        log.taken()


def number(payload):
    return int(payload.split(b" ")[1])


def check(device, promised):
    """Return what is wrong with the flash after the cut, "" when nothing is."""
    try:
        device.mount(KIND)
    except OSError as error:
        return "the file system is gone: " + str(error)
    try:
        try:
            found = read()
        except (OSError, FleetError) as error:
            return "not readable: " + str(error)
        numbers = [number(payload) for payload in found]
        if found != [message(n) for n in numbers]:
            return "altered"
        if numbers and numbers != list(range(numbers[0], numbers[-1] + 1)):
            return "not in order: " + str(numbers)
        last = numbers[-1] if numbers else -1
        if last < promised - 1:
            return f"promised {promised}, has up to {last}"
        device.left = 1 << 30
        life(device, last + 1, [0])
        again = [number(payload) for payload in read()]
        if not again or again != list(range(again[0], MESSAGES)):
            return "cannot go on"
        return ""
    finally:
        vfs.umount("/ram")


def main():
    device = RamDisk()
    device.mount(KIND, fresh=True)
    formatted = bytearray(device.data)
    begun = device.writes
    life(device, 0, [0])
    vfs.umount("/ram")
    total = device.writes - begun
    cuts = 0
    bad = []
    for cut in range(1, total, STRIDE):
        device = RamDisk(bytearray(formatted))
        device.mount(KIND)
        device.left = cut
        promised = [0]
        try:
            life(device, 0, promised)
        except (OSError, FleetError):
            pass  # the folder could not be made any more
        vfs.umount("/ram")
        device = RamDisk(device.data)
        wrong = check(device, promised[0])
        cuts += 1
        if wrong:
            bad.append(f"{cut}: {wrong}")
    print("cuts", cuts, "bad", len(bad))
    for line in bad[:20]:
        print(line)


main()
