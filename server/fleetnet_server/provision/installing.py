"""The steps of `fleetnet device install`: each leaves a board that still works.

library -> main.py -> credentials -> clock -> self-test -> the version before is removed

What is on the board already, by SHA-256, is not sent again; a run that was cut off is gone on
with by the next one.
"""

import json
import shlex
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from fleetnet_server.provision.board import MINIMUM, Board, Facts
from fleetnet_server.provision.errors import BoardError
from fleetnet_server.provision.placing import (
    PLAIN,
    Place,
    Plan,
    find_place,
    follower,
    is_plain,
    plain_files,
    plain_folders,
    plan_library,
    pointer_to,
    sha256,
    versions_on,
)

# With main.py and the bundle's folder this is what a board of its own has in its root folder.
BUNDLE = "bundle"
SELFTEST_MARK = "fleetnet-selftest: "
_SELFTEST_S = 150

Progress = Callable[[str, int, int], None]


@dataclass
class Wanted:
    """What to install.

    Attributes:
        library: path below a version's folder: content (.mpy or .py).
        bundle: name: content of the credentials; None: leave the board's.
        main: content of main.py; None: leave the board's.
        root: folder on the board; None: where the board's program runs.
        transport: of the bundle: "auto", "dtls" or "tls".
    """

    library: dict[str, bytes]
    bundle: dict[str, bytes] | None = None
    main: bytes | None = None
    root: str | None = None
    transport: str = "auto"
    has_clock: bool = True
    has_test: bool = True


@dataclass
class Report:
    """What was done. ``selftest`` is what the device itself reported, None without a test."""

    port: str
    firmware: str
    version: str = ""
    sent: list[str] = field(default_factory=list)
    sent_bytes: int = 0
    copied: int = 0
    unchanged: int = 0
    notes: list[str] = field(default_factory=list)
    clock: str = "left alone"
    selftest: dict[str, Any] | None = None


def check_firmware(port: str, facts: Facts, transport: str) -> None:
    """Refuse what the library cannot run on.

    Raises:
        BoardError: too old, or built without TLS or DTLS.
    """
    oldest = ".".join(map(str, MINIMUM))
    if facts.version[:2] < MINIMUM:
        raise BoardError(
            f"{port}: {facts.firmware} is too old: fleetnet needs MicroPython {oldest}. "
            "Update the board's firmware"
        )
    if not facts.has_tls:
        raise BoardError(
            f"{port}: this firmware ({facts.firmware}) is built without the tls module. Use a "
            "firmware with MICROPY_PY_SSL, as those for boards with a network have"
        )
    if transport == "dtls" and not facts.has_dtls:
        raise BoardError(
            f"{port}: this firmware ({facts.firmware}) has TLS but no DTLS, and the bundle asks "
            "for it. Set \"transport\" to \"tls\" in the bundle's config.json"
        )


class Installer:
    """Installs on one board.

    Args:
        progress: called with what is being done, bytes sent and bytes to send.
    """

    def __init__(self, board: Board, wanted: Wanted, progress: Progress | None = None):
        self.board = board
        self.wanted = wanted
        self.facts = board.facts(wanted.root or "")
        self.place: Place = find_place(wanted.root or self.facts.cwd, self.facts.path)
        self.report = Report(board.port, self.facts.firmware)
        self._progress = progress or (lambda text, done, total: None)
        self._total = 0

    def install(self) -> Report:
        """Do all steps.

        Raises:
            BoardError: a step failed; what the board had before still works.
        """
        check_firmware(self.board.port, self.facts, self.wanted.transport)
        if not self.facts.is_process:
            # A heap without the fragments of whatever ran before; main.py is not started.
            self.board.soft_reset()
        present = self._look()
        before = self._adopt(present)
        plan = plan_library(self.place, self.wanted.library, present)
        files = self._files_to_send(present)
        self._total = sum(map(len, plan.send.values())) + sum(map(len, files.values()))
        self._check_room()
        self._put_library(plan, present, before)
        self._put_files(files)
        self.report.clock = set_clock(self.board, self.facts, self.wanted)
        if self.wanted.has_test and self._has_bundle(present):
            self._test(plan, before)
        self._remove_others(present, plan.version)
        return self.report

    # -- looking ---------------------------------------------------------------------

    def _look(self) -> dict[str, str]:
        """Return the hashes of every file of ours on the board."""
        self._say("looking at what is there")
        listing = self.board.run(
            f"import os\ntry:\n print('\\n'.join(os.listdir({self.place.lib!r})))\n"
            "except OSError:\n pass"
        )
        present: dict[str, str] = {}
        for name in listing.split("\n"):
            if name in ("fleetnet", "fleetnet_device") or name.startswith("fleetnet-"):
                present.update(self.board.hashes(f"{self.place.lib}/{name}", 3))
        present.update(self.board.hashes(self.place.below(BUNDLE), 0))
        if self.wanted.main is not None:
            root = self.board.hashes(self.place.root.rstrip("/"), 0)
            present.update({p: h for p, h in root.items() if p == self.place.below("main.py")})
        return present

    def _adopt(self, present: dict[str, str]) -> str | None:
        """Return the version in use; a plain copy of the library becomes one.

        It is copied first, so that the board imports one copy or the other, each whole, wherever
        power goes. The pointer is written before the follower: until that is there the packages
        are one each of the two copies, which are the same.
        """
        used = self._version_in_use(present)
        if not is_plain(self.place, present):
            return used
        if used is None:
            self.board.remove_tree(f"{self.place.lib}/{PLAIN}")
            for source in plain_files(self.place, present):
                target = f"{self.place.lib}/{PLAIN}/{source[len(self.place.lib) + 1:]}"
                self._copy(source, target)
            self.report.notes.append("the copy of the library that was there is taken over")
        used = used or PLAIN
        self._say(f"switching to {used}")
        self._write(self.place.pointer, pointer_to(self.place.lib, used))
        self._write(self.place.follower, follower())
        self._say("removing the plain copy")
        for path in plain_files(self.place, present):
            if path not in (self.place.pointer, self.place.follower):
                self.board.run(f"import os\nos.remove({path!r})")
        for folder in sorted(plain_folders(self.place, present), reverse=True):
            self.board.remove_tree(folder)
        present.clear()
        present.update(self._look())
        return used

    def _version_in_use(self, present: dict[str, str]) -> str | None:
        pointer = present.get(self.place.pointer)
        for name in versions_on(self.place, present):
            if pointer == sha256(pointer_to(self.place.lib, name)):
                return name
        return None

    def _files_to_send(self, present: dict[str, str]) -> dict[str, bytes]:
        """Return main.py and the files of the bundle that differ; credentials come last."""
        files: dict[str, bytes] = {}
        if self.wanted.main is not None:
            files[self.place.below("main.py")] = self.wanted.main
        for name, data in sorted((self.wanted.bundle or {}).items()):
            files[self.place.below(f"{BUNDLE}/{name}")] = data
        changed = {p: d for p, d in files.items() if present.get(p) != sha256(d)}
        self.report.unchanged += len(files) - len(changed)
        return changed

    def _check_room(self) -> None:
        free = self.facts.flash_free
        if free is not None and self._total > free:
            raise BoardError(
                f"{self.board.port}: the board's file system is full: {self._total} B are needed, "
                f"{free} B are free. Remove files, leave parts out (--parts core), or freeze the "
                "library into the firmware (manifest.py). Nothing was changed"
            )

    # -- writing ---------------------------------------------------------------------

    def _put_library(self, plan: Plan, present: dict[str, str], before: str | None) -> None:
        self.report.version = plan.version
        self.report.unchanged += plan.keep
        if plan.is_current:
            return
        folders = {target.rpartition("/")[0] for target in plan.send}
        for source, target in plan.copy:
            self._copy(source, target)
            self.report.copied += 1
        for made in sorted(folders):
            self.board.make_folders(made)
        for target, data in plan.send.items():
            self._send(target, data)
        folder = f"{self.place.lib}/{plan.version}"
        arrived = self.board.hashes(folder, 3)
        for path, data in self.wanted.library.items():
            if arrived.get(f"{folder}/{path}") != sha256(data):
                raise BoardError(f"{self.board.port}: {path} arrived damaged: repeat the command")
        self._write_pointers(plan.version)

    def _copy(self, source: str, target: str) -> None:
        self._say(f"copying {target}")
        self.board.make_folders(target.rpartition("/")[0])
        self.board.run(_COPY.format(source=source, target=target))

    def _send(self, path: str, data: bytes, shown: str = "") -> None:
        self._say(f"sending {shown or path}")
        self.board.write(path, data)
        self.report.sent.append(shown or path)
        self.report.sent_bytes += len(data)
        self._say(f"sent {shown or path}")

    def _write_pointers(self, version: str) -> None:
        self._say(f"switching to {version}")
        self._write(self.place.follower, follower())
        self._write(self.place.pointer, pointer_to(self.place.lib, version))

    def _write(self, path: str, content: bytes) -> None:
        self.board.make_folders(path.rpartition("/")[0])
        self.board.replace(path, content)

    def _put_files(self, files: dict[str, bytes]) -> None:
        """Write main.py and the bundle beside the old ones, then rename all of them at once."""
        if not files:
            return
        bundle = self.place.below(BUNDLE)
        if any(path.startswith(bundle) for path in files):
            self.board.make_folders(bundle)
            if self.facts.is_process:
                # Boards have no owners and no modes. A process has a machine around it.
                command = f"chmod 700 {shlex.quote(bundle)}"
                self.board.run(f"import os\nos.system({command!r})")
        for path, data in files.items():
            self._send(path + ".new", data, path)
        self.board.rename(tuple((path + ".new", path) for path in files))

    def _remove_others(self, present: dict[str, str], version: str) -> None:
        for name in sorted(versions_on(self.place, present) - {version}):
            self._say(f"removing {name}")
            self.board.remove_tree(f"{self.place.lib}/{name}")

    # -- testing ---------------------------------------------------------------------

    def _test(self, plan: Plan, before: str | None) -> None:
        self._say("self-test")
        self._check_import(plan.version)
        try:
            result = run_selftest(self.board, self.place.lib, self.place.below(BUNDLE))
        except BoardError as error:
            self._go_back(plan, before, error)
            raise
        self.report.selftest = result

    def _check_import(self, version: str) -> None:
        """See that the board's ``import fleetnet`` finds what was installed."""
        try:
            found = self.board.run(_FOUND.format(lib=self.place.lib)).strip()
        except BoardError as error:
            found = f"{self.place.lib} ({error})"
        expected = f"{self.place.lib}/{version}/fleetnet"
        if found == expected or "the board says" in found:
            return  # what does not even import is for the self-test to say
        raise BoardError(
            f"{self.board.port}: the board imports {found!r} and not {expected!r}: another copy of "
            "the library, or a folder called fleetnet, comes first in its sys.path. Remove it; "
            "when it is frozen into the firmware, update the firmware instead"
        )

    def _has_bundle(self, present: dict[str, str]) -> bool:
        if self.wanted.bundle is None and self.place.below(f"{BUNDLE}/config.json") not in present:
            self.report.notes.append("no credentials on the board (--device NAME): not tested")
            return False
        return True

    def _go_back(self, plan: Plan, before: str | None, error: BoardError) -> None:
        """The new version does not even import: use the one before again."""
        if before is None or before == plan.version or "the board says" not in str(error):
            return
        self._write_pointers(before)
        raise BoardError(f"{error}. The version before is in use again") from error

    def _say(self, text: str) -> None:
        self._progress(text, self.report.sent_bytes, self._total)


def set_clock(board: Board, facts: Facts, wanted: Wanted) -> str:
    """Set the board's clock to UTC; return what was done."""
    if not wanted.has_clock:
        return "left alone"
    if not facts.has_rtc:
        return "no machine.RTC on this port: left alone"
    now = time.gmtime()
    moment = (*now[:3], now.tm_wday, *now[3:6], 0)
    board.run(f"import machine\nmachine.RTC().datetime({moment!r})")
    return time.strftime("set to %Y-%m-%d %H:%M:%S UTC", now)


def run_selftest(board: Board, lib: str, bundle: str) -> dict[str, Any]:
    """Run fleetnet_device.selftest on the board and return what it reported.

    Raises:
        BoardError: the library does not even import, or the board has gone.
    """
    said = board.run(_SELFTEST.format(lib=lib, bundle=bundle), timeout_s=_SELFTEST_S)
    lines = [line for line in said.splitlines() if line.startswith(SELFTEST_MARK)]
    if not lines:
        raise BoardError(f"{board.port}: the self-test said nothing: {said[-200:]!r}")
    result: dict[str, Any] = json.loads(lines[-1][len(SELFTEST_MARK) :])
    return result


_COPY = """
_b = bytearray(512)
with open({source!r}, "rb") as _from:
    with open({target!r}, "wb") as _to:
        while True:
            _n = _from.readinto(_b)
            if not _n:
                break
            _to.write(memoryview(_b)[:_n])
"""

_FRESH = """
import sys
if {lib!r} not in sys.path:
    sys.path.append({lib!r})
for _name in list(sys.modules):
    if _name.startswith("fleetnet"):
        del sys.modules[_name]
"""
_FOUND = _FRESH + "import fleetnet\nprint(fleetnet.__path__)"
_SELFTEST = (
    _FRESH
    + """
from fleetnet_device.selftest import run
run({bundle!r})
"""
)
