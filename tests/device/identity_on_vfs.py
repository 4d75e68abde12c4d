"""Run by MicroPython: identities on littlefs and FAT, with the power cut at block writes.

    micropython identity_on_vfs.py ROOT FILESYSTEM STRIDE [careless]

Prints ``cuts N bad M``, then one line for each bad case. The story and its back-end are those of
tests/core/identity_model.py; the block device is RAM, and keeps half of the write at which
the power goes. ``careless`` is the known bad control: a slot is named before it is written.
"""

import asyncio
import sys

import vfs

ROOT, KIND, STRIDE = sys.argv[1], sys.argv[2], int(sys.argv[3])
CARELESS = sys.argv[4:] == ["careless"]
sys.path[:0] = [ROOT, ROOT + "/device_lib", ROOT + "/tests/core"]

import identity_model as story  # noqa: E402
import test_identity_slots as orders  # noqa: E402
from ram_disk import RamDisk  # noqa: E402


def store(name, content):
    with open("/ram/" + name, "wb") as file:
        file.write(content)


def live(device, server, has_bundle):
    try:
        return asyncio.run(story.life(device, server, has_bundle, "/ram"))
    except OSError as error:
        return "" if device.is_dead else repr(error)
    finally:
        vfs.umount("/ram")


def set_up(has_bundle):
    """Return a formatted device, with the bundle on it."""
    device = RamDisk()
    device.mount(KIND, fresh=True)
    if has_bundle:
        store("cert.der", story.PAIR[0])
        store("key.der", story.PAIR[1])
    vfs.umount("/ram")
    return device.data


def cut_everywhere(has_bundle, bad):
    formatted = set_up(has_bundle)
    device = RamDisk(bytearray(formatted))
    device.mount(KIND)
    begun = device.writes
    wrong = live(device, story.Requests(has_bundle), has_bundle)
    if wrong:
        bad.append("without a cut: " + wrong)
        return 0
    cuts = 0
    for cut in range(1, device.writes - begun, STRIDE):
        server = story.Requests(has_bundle)
        device = RamDisk(bytearray(formatted))
        device.mount(KIND)
        device.left = cut
        live(device, server, has_bundle)
        device = RamDisk(device.data)
        cuts += 1
        try:
            device.mount(KIND)
            wrong = live(device, server, has_bundle)
        except OSError as error:
            wrong = "the file system is gone: " + str(error)
        if wrong:
            bad.append(f"{has_bundle}, cut {cut}: {wrong}")
    return cuts


def main():
    bad = []
    with story.Fakes(orders.NamedFirst if CARELESS else orders.Slots):
        cuts = cut_everywhere(True, bad) + cut_everywhere(False, bad)
    print("cuts", cuts, "bad", len(bad))
    for line in bad[:20]:
        print(line)


main()
