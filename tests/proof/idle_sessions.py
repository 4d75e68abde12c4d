"""Idle sessions over mutual TLS: what does each cost the server in memory?

    python tests/proof/idle_sessions.py [--sessions 9000]

As many as this machine's limit of open files bears, each with a certificate of its own, held by
a program of its own. The server's resident set is read before and after; what is made once is
paid by a hundred sessions before. Control: asyncio's own TLS server, which allocates for each
connection what a large record would need.
"""

import asyncio
import contextlib
import json
import os
import resource
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
_PATH = [str(ROOT / part) for part in ("", "server", "device_lib", "tests", "tests/bench")]
if __name__ == "__main__":
    sys.path[:0] = _PATH
    os.environ["PYTHONPATH"] = os.pathsep.join(_PATH)

from fleets import make_fleet  # noqa: E402
from footprint import bytes_a_session  # noqa: E402

from fleetnet_server.bench.links import SecureSocket, device_context  # noqa: E402
from pki import make_pki  # noqa: E402
from proof.lab import rss_of  # noqa: E402
from proof.verdict import Row, arguments, finish  # noqa: E402

# TARGETS: TLS 1.2 40 KiB, TLS 1.3 48 KiB (two more keys, and tickets).
MOST = {"tls12": 40 * 1024, "tls": 48 * 1024}
PLAIN = 200
_SPARE_FILES = 500


def open_files() -> int:
    """Raise this process's limit, which its children inherit; return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


async def plain_server(folder: Path) -> None:
    """The control's server: asyncio and its TLS, as one would write it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.load_verify_locations(folder / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED

    async def hold(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(1)

    server = await asyncio.start_server(hold, "127.0.0.1", 0, ssl=context, backlog=2048)
    print(json.dumps({"port": server.sockets[0].getsockname()[1]}), flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


def plain_bytes(folder: Path) -> float:
    """Return what a connection of the control costs."""
    pki = make_pki()
    for name, der, kind in (
        ("ca.pem", pki.ca.certificate, "CERTIFICATE"),
        ("cert.pem", pki.server[0], "CERTIFICATE"),
        ("key.pem", pki.server[1], "EC PRIVATE KEY"),
    ):
        (folder / name).write_text(_pem(der, kind))
    names = ("d-ca.der", "d-cert.der", "d-key.der")
    for name, der in zip(names, (pki.ca.certificate, *pki.device), strict=True):
        (folder / name).write_bytes(der)
    context = device_context(*(str(folder / name) for name in names), "tls")
    process = subprocess.Popen(
        [sys.executable, str(HERE / "idle_sessions.py"), "--plain", str(folder)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    links: list[SecureSocket] = []
    try:
        assert process.stdout is not None
        number = json.loads(process.stdout.readline())["port"]
        held = 0
        for count in range(50 + PLAIN):
            if count == 50:
                held = rss_of(process.pid)
            link = SecureSocket(context, "127.0.0.1", number)
            while not link.handshake():
                time.sleep(0.0005)
            links.append(link)
        time.sleep(1)
        return (rss_of(process.pid) - held) / PLAIN
    finally:
        for link in links:
            with contextlib.suppress(OSError):
                link.close()
        process.kill()
        process.communicate()


def _pem(der: bytes, kind: str) -> str:
    return ssl.DER_cert_to_PEM_cert(der).replace("CERTIFICATE", kind)


def main(words: list[str]) -> int:
    """Run with the command line's arguments; return the exit code."""
    parser = arguments(__doc__)
    parser.add_argument("--sessions", type=int, default=9000)
    parser.add_argument("--plain", type=Path, help="be the control's server")
    options = parser.parse_args(words)
    if options.plain:
        asyncio.run(plain_server(options.plain))
        return 0
    most = open_files() - _SPARE_FILES
    wanted = 300 if options.quick else options.sessions
    sessions = min(wanted, most - 100)
    figures, faults = [], []
    with tempfile.TemporaryDirectory(prefix="proof-idle-") as made:
        folder = Path(made) / "fleet"
        make_fleet(folder, 100 + sessions)
        for link, limit in MOST.items():
            count = sessions if link == "tls" else min(sessions, 1000)
            each = bytes_a_session(folder, link, count, {})
            name = {"tls": "TLS 1.3", "tls12": "TLS 1.2"}[link]
            figures.append(f"{count} x {name}: {each / 1024:.1f} KiB each")
            if each > limit:
                faults.append(f"{name}: more than {limit >> 10} KiB")
        plain = plain_bytes(Path(made))
    row = Row(
        "26", "idle sessions over mutual TLS", "40 KiB each with TLS 1.2, 48 KiB with TLS 1.3",
        "; ".join(figures + faults), not faults and (options.quick or sessions == wanted),
        f"asyncio's own TLS: {plain / 1024:.0f} KiB a connection", plain > max(MOST.values()),
    )  # fmt: skip
    return finish([row], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
