"""The openssl command, asked about certificates and lists."""

import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding


def openssl(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run openssl to its end; output as text."""
    program = shutil.which("openssl")
    if program is None:
        pytest.skip("needs the openssl command")
    return subprocess.run(
        [program, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=30
    )


def pem_file(path: Path, certificates: Iterable[bytes]) -> Path:
    """Write DER certificates as one PEM file."""
    loaded = map(x509.load_der_x509_certificate, certificates)
    path.write_bytes(b"".join(one.public_bytes(Encoding.PEM) for one in loaded))
    return path


def verify(
    place: Path, leaf: bytes, issuing: bytes | None, root: bytes, *arguments: object
) -> tuple[bool, str]:
    """Run `openssl verify -x509_strict` for a chain; (accepted, what it said)."""
    untrusted: tuple[object, ...] = ()
    if issuing is not None:
        untrusted = ("-untrusted", pem_file(place / "untrusted.pem", [issuing]))
    answer = openssl(
        "verify", "-x509_strict", "-CAfile", pem_file(place / "root.pem", [root]), *untrusted,
        *arguments, pem_file(place / "leaf.pem", [leaf]),
    )  # fmt: skip
    return answer.returncode == 0, answer.stdout + answer.stderr
