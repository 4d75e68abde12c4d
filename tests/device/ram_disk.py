"""A flash in RAM for MicroPython's file systems; its power goes at a block write."""

import vfs

BLOCK = 512
BLOCKS = 96


class RamDisk:
    """A block device (MicroPython docs, vfs.AbstractBlockDev, extended interface).

    Attributes:
        data: all of it. writes: so far.
        left: block writes until the power goes; of the last one half is kept.
    """

    def __init__(self, data=None):
        self.data = bytearray(BLOCK * BLOCKS) if data is None else data
        self.left = 1 << 30
        self.writes = 0

    @property
    def is_dead(self):
        return self.left <= 0

    def readblocks(self, number, buffer, offset=0):
        at = number * BLOCK + offset
        for i in range(len(buffer)):
            buffer[i] = self.data[at + i]

    def writeblocks(self, number, buffer, offset=0):
        self.writes += 1
        self.left -= 1
        at = number * BLOCK + offset
        if self.left < 0:
            return  # the power is gone already
        size = len(buffer) if self.left else len(buffer) // 2
        self.data[at : at + size] = buffer[:size]

    def ioctl(self, operation, argument):
        if operation == 4:
            return BLOCKS
        if operation == 5:
            return BLOCK
        if operation == 6:
            return 0
        return None

    def mount(self, kind, fresh=False):
        """Mount it as /ram; ``kind``: "littlefs" or "fat"; fresh: format it before."""
        file_system = {"littlefs": vfs.VfsLfs2, "fat": vfs.VfsFat}[kind]
        if fresh:
            file_system.mkfs(self)
        vfs.mount(file_system(self), "/ram")
