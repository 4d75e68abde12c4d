"""One file of the spool, as RAM knows it."""

_SUFFIX = ".spl"


class Segment:
    """One file. ``left`` and ``readings``: not delivered; ``unread``: not handed over yet."""

    def __init__(self, number: int):
        self.number = number
        self.name = "%08x%s" % (number, _SUFFIX)
        self.size = 0  # bytes of the file
        self.end = 0  # bytes of good records
        self.left = 0
        self.readings = 0
        self.unread: "dict[int, int]" = {}
        self.unread_readings = 0
        self.runs: "set[int]" = set()
        self.sealed = False

    def lose_unread(self) -> int:
        """Forget what was not handed over; return how many messages that were."""
        lost = sum(self.unread.values())
        self.left -= lost
        self.readings -= self.unread_readings
        self.unread = {}
        self.unread_readings = 0
        return lost


def segment_number(name: str) -> int:
    """Return the number in a segment's file name, -1 for any other file."""
    if len(name) != 8 + len(_SUFFIX) or not name.endswith(_SUFFIX):
        return -1
    try:
        return int(name[:8], 16)
    except ValueError:
        return -1
