"""Where the library lies on a board, and what has to be written: all pure.

    LIB/fleetnet/__init__.py            the pointer: names the folder in use
    LIB/fleetnet_device/__init__.py     follows the pointer; the same for every version
    LIB/fleetnet-1a2b3c4d/fleetnet/...  one version, named by the SHA-256 of its content
    LIB/fleetnet-1a2b3c4d/fleetnet_device/...

A new version is written into a folder of its own, and comes into use when the pointer is
replaced, by one rename. Whatever happens before that, the board imports the old version whole.
MicroPython looks up the modules of a package in its ``__path__`` (py/builtinimport.c), which the
pointer sets.
"""

import hashlib
from dataclasses import dataclass, field

PLAIN = "fleetnet-plain"

_POINTER = """\
# Made by `fleetnet device install`: says where the library is.
__path__ = %r
import fleetnet.__init__ as _library

for _name, _value in _library.__dict__.items():
    if _name not in ("__name__", "__path__"):
        globals()[_name] = _value
"""

_FOLLOWER = b"""\
# Made by `fleetnet device install`: goes where fleetnet/__init__.py says.
import fleetnet

__path__ = fleetnet.__path__ + "_device"
import fleetnet_device.__init__ as _library

for _name, _value in _library.__dict__.items():
    if _name not in ("__name__", "__path__"):
        globals()[_name] = _value
"""


@dataclass(frozen=True)
class Place:
    """Folders of one board, absolute. ``lib`` is where its sys.path looks."""

    root: str
    lib: str

    @property
    def pointer(self) -> str:
        return f"{self.lib}/fleetnet/__init__.py"

    @property
    def follower(self) -> str:
        return f"{self.lib}/fleetnet_device/__init__.py"

    def below(self, name: str) -> str:
        """A path in the board's root folder."""
        return f"{self.root.rstrip('/')}/{name}"


@dataclass
class Plan:
    """What is to be done for the library.

    Attributes:
        version: name of the folder that will be in use.
        send: path on the board: content that goes over the wire.
        copy: (from, to) on the board: the same content is there already.
        keep: how many files need nothing.
        is_current: the pointer names this version and nothing differs.
    """

    version: str
    send: dict[str, bytes] = field(default_factory=dict)
    copy: list[tuple[str, str]] = field(default_factory=list)
    keep: int = 0
    is_current: bool = False


def find_place(root: str, path: tuple[str, ...]) -> Place:
    """Choose the library folder: that of sys.path in ``root``, else ROOT/lib."""
    wanted = f"{root.rstrip('/')}/lib"
    return Place(root, wanted if wanted not in path else path[path.index(wanted)])


def version_name(files: dict[str, bytes]) -> str:
    """Return the name of the folder for this content: the same content, the same name."""
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path} {sha256(files[path])}\n".encode())
    return f"fleetnet-{digest.hexdigest()[:8]}"


def pointer_to(lib: str, version: str) -> bytes:
    """Return the content of LIB/fleetnet/__init__.py."""
    return (_POINTER % f"{lib}/{version}/fleetnet").encode()


def follower() -> bytes:
    """Return the content of LIB/fleetnet_device/__init__.py."""
    return _FOLLOWER


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def is_plain(place: Place, present: dict[str, str]) -> bool:
    """Say whether LIB/fleetnet is the library itself (by mip, or by hand) and no pointer."""
    inside = [path for path in present if path.startswith(f"{place.lib}/fleetnet/")]
    return bool(inside) and set(inside) - {f"{place.pointer}.new"} != {place.pointer}


def plain_files(place: Place, present: dict[str, str]) -> list[str]:
    """Return what lies in LIB/fleetnet_device and LIB/fleetnet, in this order."""
    starts = (f"{place.lib}/fleetnet_device/", f"{place.lib}/fleetnet/")
    return [path for start in starts for path in sorted(present) if path.startswith(start)]


def plain_folders(place: Place, present: dict[str, str]) -> set[str]:
    """Return the folders inside these two, such as LIB/fleetnet/ports."""
    found = {path.rpartition("/")[0] for path in plain_files(place, present)}
    return found - {f"{place.lib}/fleetnet_device", f"{place.lib}/fleetnet"}


def plan_library(place: Place, files: dict[str, bytes], present: dict[str, str]) -> Plan:
    """Compare the wanted files with the hashes of those on the board.

    Args:
        files: path below a version's folder: content.
        present: path on the board: SHA-256 in hexadecimal.
    """
    plan = Plan(version_name(files))
    by_hash = {digest: path for path, digest in present.items()}
    for path, data in files.items():
        target = f"{place.lib}/{plan.version}/{path}"
        digest = sha256(data)
        if present.get(target) == digest:
            plan.keep += 1
        elif digest in by_hash:
            plan.copy.append((by_hash[digest], target))
        else:
            plan.send[target] = data
    points_here = present.get(place.pointer) == sha256(pointer_to(place.lib, plan.version))
    follows = present.get(place.follower) == sha256(_FOLLOWER)
    plan.is_current = points_here and follows and not plan.send and not plan.copy
    return plan


def versions_on(place: Place, present: dict[str, str]) -> set[str]:
    """Return the names of the version folders that hold files."""
    start = f"{place.lib}/fleetnet-"
    return {
        path[len(place.lib) + 1 :].partition("/")[0] for path in present if path.startswith(start)
    }
