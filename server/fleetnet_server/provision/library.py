"""Which files make up the device library: taken from the tree by rule, never listed by hand.

A board gets every module of ``fleetnet`` and ``fleetnet_device`` but CPython's half of
``fleetnet.ports``. The *core* is what a telemetry device over DTLS and TLS may come to import,
its explanations of errors included; every other module is an optional *part*, called by the last
word of its name, and brings what it imports.

Needs the standard library alone: manifest.py imports it inside a build of the firmware.
"""

import ast
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from fleetnet_server.provision.errors import PackageError

PACKAGES = ("fleetnet", "fleetnet_device")
# Files of fleetnet/ports that only CPython can run.
CPYTHON_ONLY = ("openssl", "cpython")
# Where the imports of a telemetry device begin. Both transports count, as a device falls back
# from one to the other.
CORE_ROOTS = (
    "fleetnet",
    "fleetnet.ports.micropython",
    "fleetnet.ports.micropython_dtls",
    "fleetnet.ports.micropython_tls",
    "fleetnet_device",
    # Certificates end: no board is set up without what renews them.
    "fleetnet_device.rotation",
)
# What modules of the core import only for a program that asks for the feature: listening,
# sockets, cipher lists, keys of its own, the time from NTP, the spool. Anything else that they
# import inside a function is needed by everybody sooner or later, and belongs to the core.
ON_REQUEST = (
    "fleetnet.ports.micropython_context",
    "fleetnet.ports.micropython_dtls_server",
    "fleetnet.ports.micropython_listen",
    "fleetnet.ports.micropython_sockets",
    "fleetnet.streams",
    "fleetnet.wrapping",
    "fleetnet_device.csr",
    "fleetnet_device.ntp",
    "fleetnet_device.p256",
    "fleetnet_device.sampler",
    "fleetnet_device.spool",
)


@dataclass(frozen=True)
class Module:
    """One source file of the library.

    Attributes:
        name: dotted; a package has the name of its folder.
        source: the file here.
        target: its path on the board below the library folder, with .py.
        imports: modules of the library that its import alone imports.
        lazy: those that only a call in it imports.
    """

    name: str
    source: Path
    target: str
    imports: frozenset[str]
    lazy: frozenset[str]

    @property
    def part(self) -> str:
        """The word that chooses it."""
        return self.name.rpartition(".")[2].removeprefix("micropython_")


def library(folders: Iterable[Path] | None = None) -> dict[str, Module]:
    """Return the modules by name, sorted.

    Args:
        folders: of the packages; None: where this interpreter imports them from.

    Raises:
        PackageError: a package is not there.
    """
    modules: dict[str, Module] = {}
    for folder in folders if folders is not None else map(_folder_of, PACKAGES):
        for path in sorted(folder.rglob("*.py")):
            if not (path.parent.name == "ports" and path.name.startswith(CPYTHON_ONLY)):
                module = _read(path, folder)
                modules[module.name] = module
    if not set(PACKAGES) <= set(modules):
        raise PackageError(f"the library is not whole: it must hold {' and '.join(PACKAGES)}")
    return dict(sorted(modules.items()))


def core(modules: dict[str, Module]) -> set[str]:
    """Return the names that every device needs."""
    return _closure(modules, CORE_ROOTS, ON_REQUEST)


def parts(modules: dict[str, Module]) -> dict[str, set[str]]:
    """Return the optional parts: what choosing each adds to the core."""
    needed = core(modules)
    optional = {name: module for name, module in modules.items() if name not in needed}
    return {module.part: _closure(optional, (name,)) for name, module in optional.items()}


def choose(modules: dict[str, Module], wanted: Iterable[str] | None) -> dict[str, Module]:
    """Return the core and the ``wanted`` parts; all of it when ``wanted`` is None.

    Raises:
        PackageError: there is no such part.
    """
    if wanted is None:
        return modules
    known = parts(modules)
    names = core(modules)
    for part in wanted:
        if part not in known and part != "core":
            raise PackageError(f"no part is called {part!r}: there are {', '.join(sorted(known))}")
        names |= known.get(part, set())
    return {name: module for name, module in modules.items() if name in names}


def _folder_of(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise PackageError(f"package {package} is not installed: pip install fleetnet")
    return Path(spec.origin).parent


def _closure(
    modules: dict[str, Module], roots: Iterable[str], without: tuple[str, ...] = ()
) -> set[str]:
    """Return ``roots`` and what they import or may import, with the packages around them."""
    found: set[str] = set()
    waiting = [root for root in roots if root in modules]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            parent = name.rpartition(".")[0]
            reached = {parent, *modules[name].imports, *(modules[name].lazy - set(without))}
            waiting.extend(reached & set(modules))
    return found


def _read(path: Path, folder: Path) -> Module:
    relative = path.relative_to(folder.parent)
    words = list(relative.with_suffix("").parts)
    if words[-1] == "__init__":
        words.pop()
    tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
    eager: set[str] = set()
    lazy: set[str] = set()
    _collect(tree.body, eager, lazy, eager)
    name = ".".join(words)
    return Module(name, path, relative.as_posix(), frozenset(eager), frozenset(lazy - eager))


def _collect(body: list[ast.stmt], eager: set[str], lazy: set[str], now: set[str]) -> None:
    """Sort the imports of ``body``: what runs at import, and what waits inside a function."""
    for node in body:
        if isinstance(node, ast.Import):
            now.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            now.add(node.module)
            now.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            _collect(node.body, eager, lazy, lazy)
        elif isinstance(node, ast.If) and _is_for_type_checkers(node.test):
            _collect(node.orelse, eager, lazy, now)
        else:
            for inner in ("body", "orelse", "finalbody"):
                _collect(getattr(node, inner, []), eager, lazy, now)
            for handler in getattr(node, "handlers", []):
                _collect(handler.body, eager, lazy, now)


def _is_for_type_checkers(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
