"""A flash in memory that keeps every operation, so that a power cut can be placed anywhere."""

import io


class Flash:
    """Stands for fleetnet_device.spool_files.Files.

    Attributes:
        files: name -> bytearray.
        operations: ("append" | "write" | "remove", name, data), oldest first; None: not kept.
        bytes_written, writes: over all lives of a device.
        capacity: bytes; beyond it a write is done in part and fails as a full disk does.
        broken: every write fails.
    """

    def __init__(self, capacity=1 << 30, files=None):
        self.files = {}
        for name, data in (files or {}).items():
            self.files[name] = bytearray(data)
        self.operations = []
        self.capacity = capacity
        self.broken = False
        self.bytes_written = 0
        self.writes = 0

    def after_power_cut(self):
        """The same flash, as the next life finds it."""
        flash = Flash(self.capacity, self.files)
        flash.bytes_written, flash.writes = self.bytes_written, self.writes
        if self.operations is None:
            flash.operations = None
        return flash

    def free(self):
        """As file systems do that do not know, or whose answer is out of date."""
        return 1 << 30

    def names(self):
        return list(self.files)

    def size(self, name):
        if name not in self.files:
            raise OSError(2)
        return len(self.files[name])

    def open(self, name):
        if name not in self.files:
            raise OSError(2)
        return io.BytesIO(bytes(self.files[name]))

    def append(self, name, parts):
        self._write("append", name, b"".join(parts))

    def write(self, name, data):
        if self.broken:
            raise OSError(5)
        self.files[name] = bytearray()
        self._write("write", name, data)

    def _write(self, operation, name, data):
        if self.broken:
            raise OSError(5)
        room = self.capacity - sum([len(content) for content in self.files.values()])
        done = data[: max(0, room)]
        self._note(operation, name, bytes(done))
        self.files.setdefault(name, bytearray()).extend(done)
        if len(done) < len(data):
            raise OSError(28)

    def remove(self, name):
        if name not in self.files:
            raise OSError(2)
        self._note("remove", name, b"")
        del self.files[name]

    def _note(self, operation, name, data):
        self.bytes_written += len(data)
        self.writes += 1
        if self.operations is not None:
            self.operations.append((operation, name, data))


def apply(files, operation, name, data):
    """Do one operation to a dictionary name -> bytes."""
    if operation == "remove":
        files.pop(name, None)
    elif operation == "write":
        files[name] = data
    else:
        files[name] = files.get(name, b"") + data
