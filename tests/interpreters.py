"""The MicroPythons of this machine, and what each can do.

Looked for, in this order: FLEETNET_MICROPYTHON (paths separated by ``:``; one that does not run
is an error, since somebody named it), ``micropython`` on PATH, and what the set-up unpacked in
``.tools``. Two of the same build count once. Features are asked of the interpreter itself, never
concluded from its version: board firmwares are built with other options than Debian's.
"""

import functools
import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIRED = (1, 25)

# Prints one JSON line. A DTLS server needs the client_id argument (the cookie is bound to it):
# without it wrap_socket raises TypeError before it looks at the socket.
PROBE = """
import json, socket, sys
features = []
try:
    import tls
    features.append("tls")
except ImportError:
    tls = None
if tls and hasattr(tls, "PROTOCOL_DTLS_CLIENT"):
    features.append("dtls_client")
    context = tls.SSLContext(tls.PROTOCOL_DTLS_SERVER)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False, client_id=b"x")
        features.append("dtls_server")
    except TypeError:
        pass
    except OSError:
        features.append("dtls_server")
    sock.close()
if tls and hasattr(tls.SSLContext(tls.PROTOCOL_TLS_CLIENT), "psk_key"):
    features.append("psk")
try:
    import ssl
    features.append("ssl")
except ImportError:
    pass
print(json.dumps([list(sys.implementation[1])[:3], sys.version, features]))
"""
FEATURES = ["tls", "dtls_client", "dtls_server", "psk", "ssl"]


@dataclass(frozen=True)
class Interpreter:
    """One MicroPython: absolute path of its command, version, build string, features."""

    path: str
    version: tuple[int, int, int]
    build: str
    features: frozenset[str]

    @property
    def name(self) -> str:
        return "micropython-" + ".".join(map(str, self.version))

    def run(
        self, *arguments: str, timeout: float = 60, **options: object
    ) -> subprocess.CompletedProcess[str]:
        """Run it in the checkout to its end; output as text. TimeoutExpired after ``timeout`` s."""
        return subprocess.run(
            [self.path, *arguments],
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=ROOT,
            check=False,
            **options,  # type: ignore[call-overload]
        )


def named() -> list[str]:
    return [path for path in os.environ.get("FLEETNET_MICROPYTHON", "").split(":") if path]


def candidates() -> list[str]:
    paths = named()
    on_path = shutil.which("micropython")
    if on_path:
        paths.append(on_path)
    paths.extend(str(path) for path in sorted((ROOT / ".tools").glob("micropython-*/micropython")))
    return paths


def probe(path: str) -> Interpreter | None:
    """Ask one command what it is; None when it does not run."""
    try:
        answer = subprocess.run(
            [path, "-c", PROBE], capture_output=True, text=True, timeout=20, check=True
        )
        version, build, features = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    major, minor, micro = version
    return Interpreter(
        os.path.abspath(path), (major, minor, micro), build, frozenset(features)
    )


@functools.cache
def interpreters() -> tuple[Interpreter, ...]:
    """Every usable MicroPython, oldest first. RuntimeError for a named one that does not run."""
    found: dict[str, Interpreter] = {}
    for path in candidates():
        interpreter = probe(path)
        if interpreter is None and path in named():
            raise RuntimeError(f"FLEETNET_MICROPYTHON names {path}, which does not run")
        if interpreter is not None and interpreter.version >= REQUIRED:
            found.setdefault(interpreter.build, interpreter)
    return tuple(sorted(found.values(), key=lambda each: each.version))


def required() -> Interpreter | None:
    """The oldest supported version (1.25), or None when this machine has none."""
    for interpreter in interpreters():
        if interpreter.version[:2] == REQUIRED:
            return interpreter
    return None


def table() -> list[str]:
    """Lines of a table: firmware by feature."""
    lines = ["firmware              " + "".join(f"{feature:<13}" for feature in FEATURES)]
    for each in interpreters():
        marks = "".join(f"{'yes' if f in each.features else '-':<13}" for f in FEATURES)
        lines.append(f"{each.name:<22}{marks}")
    if required() is None:
        lines.append("MicroPython 1.25, the oldest supported, is not on this machine")
    return lines
