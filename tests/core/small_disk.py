"""A file system in memory whose power fails at any operation; for small files (saved.py).

    disk = SmallDisk()
    with disk.mounted(saved, identity_slots):    # they see it as ``os`` and ``open``
        disk.fail_after(7, 1)
        ...                                      # the 8th operation is done by half, no other is
"""


class SmallDisk:
    """Stands for ``os`` and ``open`` of a module.

    Args:
        renames_over: a rename may replace a file, as littlefs and POSIX do and FAT does not.

    Attributes:
        files: path -> bytes.
        operations: what was done that changes files, over all lives.
        is_dead: the power is gone.
    """

    def __init__(self, files=None, renames_over=True):
        self.files = dict(files or {})
        self.operations = 0
        self.is_dead = False
        self._renames_over = renames_over
        self._left = 1 << 30
        self._half = 0

    def fail_after(self, operations, half):
        """Cut the power at the operation behind so many.

        Args:
            half: of what that one writes arrives: nothing (0), half of it (1), all (2).
        """
        self._left, self._half = operations, half
        self.is_dead = False

    def after_power_cut(self):
        """The same disk, as the next life finds it."""
        return SmallDisk(self.files, self._renames_over)

    def mounted(self, *modules):
        return _Mounted(self, modules)

    def _is_done(self):
        """Count an operation; say whether it is done. Raises OSError once the power is gone."""
        if self.is_dead:
            raise OSError(5)
        self.operations += 1
        self._left -= 1
        if self._left < 0:
            self.is_dead = True
        return not self.is_dead

    # -- os ----------------------------------------------------------------------------

    def stat(self, path):
        if path not in self.files:
            raise OSError(2)
        return (0, 0, 0, 0, 0, 0, len(self.files[path]))

    def remove(self, path):
        if path not in self.files:
            raise OSError(2)
        if not self._is_done():
            raise OSError(5)
        del self.files[path]

    def rename(self, path, to):
        if path not in self.files:
            raise OSError(2)
        if to in self.files and not self._renames_over:
            raise OSError(17)
        if not self._is_done():
            raise OSError(5)
        self.files[to] = self.files.pop(path)

    # -- open --------------------------------------------------------------------------

    def open(self, path, mode="r"):
        if mode == "wb":
            if self._is_done():
                self.files[path] = b""
        elif mode == "ab":
            if path not in self.files and self._is_done():
                self.files[path] = b""
        elif path not in self.files:
            raise OSError(2)
        return _File(self, path)

    def write(self, path, data):
        if self._is_done():
            self.files[path] += data
        elif self._left == -1 and path in self.files:
            self._left = -2
            self.files[path] += data[: len(data) * self._half // 2]


class _File:
    def __init__(self, disk, path):
        self._disk = disk
        self._path = path

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass

    def read(self, size=-1):
        return self._disk.files[self._path]

    def write(self, data):
        self._disk.write(self._path, data)

    def flush(self):
        if self._disk.is_dead:
            raise OSError(5)


class _Mounted:
    def __init__(self, disk, modules):
        self._disk = disk
        self._modules = modules

    def __enter__(self):
        self._before = [
            (module, name, getattr(module, name, open))
            for module in self._modules
            for name in ("os", "open")
            if name == "open" or hasattr(module, name)
        ]
        for module, name, _ in self._before:
            setattr(module, name, self._disk if name == "os" else self._disk.open)
        return self._disk

    def __exit__(self, kind, error, trace):
        for module, name, before in self._before:
            setattr(module, name, before)
