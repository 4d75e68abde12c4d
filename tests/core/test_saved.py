"""Small files under power cuts, two in a row: the second may meet what the first left behind."""

import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.insert(0, FOLDER)
from small_disk import SmallDisk  # noqa: E402

from fleetnet_device import journal, saved  # noqa: E402

PATH = "/f/name"
# No write of these has more operations.
CUTS = [(operations, half) for operations in range(7) for half in range(3)]


def cut(disk, where, act):
    """Do something on a disk whose power fails; return the disk of the next life, and if it did."""
    disk.fail_after(*where)
    try:
        with disk.mounted(saved, journal):
            act()
    except OSError:
        assert disk.is_dead
    return disk.after_power_cut(), not disk.is_dead


def content(disk):
    with disk.mounted(saved):
        return saved.read(PATH)


def test_two_cuts_in_a_row_leave_the_old_content_or_the_new_one():
    for renames_over in (True, False):
        for first in CUTS:
            for second in CUTS:
                disk = SmallDisk({}, renames_over)
                old = None
                for where, new in ((first, b"one"), (second, b"two"), ((1 << 30, 0), b"three")):
                    disk, is_done = cut(disk, where, lambda new=new: saved.write(PATH, new))
                    found = content(disk)
                    assert found == new if is_done else found in (old, new), (first, second)
                    old = found
                assert old == b"three"


def test_what_is_removed_stays_away():
    for renames_over in (True, False):
        for first in CUTS:
            disk = SmallDisk({}, renames_over)
            disk, _ = cut(disk, (1 << 30, 0), lambda: saved.write(PATH, b"one"))
            disk, _ = cut(disk, first, lambda: saved.write(PATH, b"two"))
            disk, _ = cut(disk, (1 << 30, 0), lambda: saved.remove(PATH))
            assert content(disk) is None and not disk.files, first


class Life:
    """One boot with a journal of few bytes; ``began``: the commands whose handlers had run."""

    def __init__(self, disk, began):
        self.disk = disk
        self.began = began

    def run(self, numbers):
        commands = journal.Journal(PATH, self.report)
        for known in self.began:
            # What is not known is not run, where the journal says that it cannot tell.
            assert commands.find(known) is not None or not commands.is_complete, known
        for number in numbers:
            commands.begin("c%d" % number)
            self.began.append("c%d" % number)
            commands.end("c%d" % number, b'["c%d","ok",1]' % number)

    def report(self, error, what):
        """The flash failed: its power is gone."""
        raise OSError(5)


def test_two_cuts_in_a_row_let_no_command_run_twice():
    before = journal.JOURNAL_BYTES
    journal.JOURNAL_BYTES = 200  # six lines: some compact the file
    try:
        for renames_over in (True, False):
            for first in range(40):
                for second in range(6):
                    disk, began = SmallDisk({}, renames_over), []
                    for where, numbers in (
                        ((first, 0), range(9)), ((second, 0), range(9, 11)), ((1 << 30, 0), (11,)),
                    ):  # fmt: skip
                        life = Life(disk, began)
                        disk, _ = cut(disk, where, lambda life=life, n=numbers: life.run(n))
                    cut(disk, (1 << 30, 0), lambda disk=disk: Life(disk, began).run(()))
    finally:
        journal.JOURNAL_BYTES = before


def test_a_journal_that_is_given_up_leaves_nothing_behind():
    """Half a file of a full flash would be taken for all of it by the next boot."""
    disk = SmallDisk({PATH: b"", PATH + ".new": b"0"})
    with disk.mounted(saved, journal):
        commands = journal.Journal(PATH, lambda error, what: None)
        commands._give_up(OSError(28))
    assert not disk.files
