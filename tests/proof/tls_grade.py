"""What do the graders of the trade say of the server's TLS port?

    python tests/proof/tls_grade.py [--quick] [--json FILE]

A real `fleetnet serve`; sslscan and testssl.sh (Debian), sslyze (an environment of its own, see
tools/proof_tools.sh: it pins an older cryptography) look at it with a device's certificate where
they can show one. 0 findings, and each must have seen TLS 1.2 and 1.3: a tool that sees nothing
finds nothing. --quick leaves out testssl.sh, thousands of forks of a shell. What testssl.sh calls
a finding and is none for a fleet is in graders.EXPECTED, each with its reason.

The control is an OpenSSL server with TLS 1.0, CBC and a key of 1,024 bits: every tool has to see
it, and to name its TLS 1.0. tlsfuzzer is in no package index, so nothing installs it by name;
docs/verification.md has what its scripts said of a checkout.
"""

import asyncio
import socket
import ssl
import sys
import tempfile
import threading
import warnings
from pathlib import Path

if __name__ == "__main__":
    ROOT = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(ROOT / part) for part in ("", "server", "device_lib", "tests")]

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509 import load_der_x509_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID

from end_to_end.fleet import Fleet
from pki import key_pem, odd
from proof.graders import GRADERS, Identity, Report, place_of
from proof.verdict import Row, arguments, finish

SLOW = ("testssl",)
PLANTED = "TLSv1.0 is offered"


def write_identity(folder: Path, certificate: bytes, key: bytes, name: str) -> Identity:
    found = Identity(folder / f"{name}.crt", folder / f"{name}.pem")
    shown = load_der_x509_certificate(certificate)
    found.certificate.write_bytes(shown.public_bytes(serialization.Encoding.PEM))
    found.key.write_bytes(key_pem(key))
    return found


class WeakServer:
    """TLS 1.0 to 1.2 with CBC suites and a small RSA key, on a thread of its own."""

    def __init__(self, folder: Path):
        key = rsa.generate_private_key(65537, 1024)  # noqa: S505 - that is the point
        made = odd(None, ExtendedKeyUsageOID.SERVER_AUTH, key=key)
        identity = write_identity(folder, made.certificate, made.key, "weak")
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            self._context.minimum_version = ssl.TLSVersion.TLSv1
        self._context.load_cert_chain(identity.certificate, identity.key)
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        try:
            with self._context.wrap_socket(connection, server_side=True) as wrapped:
                while wrapped.recv(4096):
                    pass
        except OSError:
            connection.close()

    def close(self) -> None:
        self._listener.close()


def grade(tools: list[str], port: int, identity: Identity | None, folder: Path) -> list[Report]:
    folder.mkdir()
    return [GRADERS[tool](place_of(tool) or tool, port, identity, folder) for tool in tools]


async def grade_ours(tools: list[str], folder: Path) -> list[Report]:
    fleet = Fleet(folder / "fleet")
    bundle = fleet.add_device("cam-1", "tls")
    names = ("cert.der", "key.der")
    identity = write_identity(folder, *((bundle / name).read_bytes() for name in names), "device")
    try:
        await fleet.start_server()
        return await asyncio.to_thread(grade, tools, fleet.tls[1], identity, folder / "ours")
    finally:
        await fleet.close()


def row_of(ours: list[Report], weak: list[Report], missing: list[str]) -> Row:
    findings = [f"{one.tool}: {each}" for one in ours for each in one.findings + one.unseen()]
    seen = ", ".join(f"{one.tool} {len(one.suites)}" for one in ours if one.suites)
    absent = f"; not here: {', '.join(missing)}" if missing else ""
    # What is said of a server that was not seen is no finding.
    blind = [one.tool for one in weak if not one.protocols or PLANTED not in one.findings]
    return Row(
        "30",
        f"graded by {', '.join(one.tool for one in ours)}",
        "TLS 1.2 and 1.3 with AEAD and forward secrecy only: 0 findings",
        f"{len(findings)} findings{': ' + '; '.join(findings) if findings else ''}"
        f" (suites seen: {seen}{absent})",
        bool(ours) and not findings,
        "TLS 1.0, CBC and RSA 1024: "
        + ", ".join(f"{one.tool} {len(one.findings)} findings" for one in weak)
        + (f"; NOT SEEN by {', '.join(blind)}" if blind else ""),
        bool(weak) and not blind,
    )


def main(words: list[str]) -> int:
    options = arguments(__doc__).parse_args(words)
    wanted = [tool for tool in GRADERS if not (options.quick and tool in SLOW)]
    tools = [tool for tool in wanted if place_of(tool)]
    missing = [tool for tool in wanted if tool not in tools]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        ours = asyncio.run(grade_ours(tools, folder))
        server = WeakServer(folder)
        weak = grade(tools, server.port, None, folder / "weak")
        server.close()
    for one in ours:
        print(f"{one.tool}: {', '.join(one.suites or one.protocols)}")
    return finish([row_of(ours, weak, missing)], options.json)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
