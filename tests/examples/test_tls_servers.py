"""Row 4: the TLS server examples, with `openssl s_client` and the client example as clients."""

import subprocess
from pathlib import Path

import pytest

from examples.programs import (
    HOST,
    every_runtime,
    example_server,
    openssl,
    run_example,
    s_client,
)
from interpreters import Interpreter
from pki import Pki

Runtime = Interpreter | None
SERVERS = ["tls/tls_server.py", "tls/tls_server_blocking.py"]
every_server = pytest.mark.parametrize("example", SERVERS, ids=lambda path: Path(path).stem)


def pair(place: Path) -> tuple[Path, Path]:
    return place / "server.der", place / "serverkey.der"


def verifying(place: Path) -> tuple[object, ...]:
    """Options of an s_client that trusts the test CA and nobody else."""
    return (
        *("-CAfile", place / "ca.pem", "-verify_return_error"),
        *("-servername", "localhost", "-verify_hostname", "localhost"),
    )


@every_runtime
@every_server
def test_server_shows_its_certificate(runtime: Runtime, example: str, place: Path) -> None:
    with example_server(example, runtime, *pair(place)) as (port, _):
        for _ in range(2):
            with s_client(port, *verifying(place)) as client:
                client.wait_for(r"Verify return code: 0 \(ok\)")
                client.say("hello\n")
                client.wait_for(r"(you said|0 B of certificate:) hello")


@every_runtime
@every_server
def test_mutual_tls(runtime: Runtime, example: str, place: Path) -> None:
    """With the client's anchor: good certificates come in, none and a stranger's do not."""
    with example_server(example, runtime, *pair(place), place / "ca.der") as (port, server):
        for refused in ([], ["-cert", place / "stranger.pem", "-key", place / "strangerkey.pem"]):
            with s_client(port, *verifying(place), *refused) as client:
                client.say("hello\n")
                client.finish()
                assert "hello" not in client.output
        if runtime is not None or example == SERVERS[1]:
            # On CPython start_server calls the program only for clients that are in.
            assert server.wait_for(r"(?s)refused:.*refused:")
        good = ("-cert", place / "cert.pem", "-key", place / "key.pem")
        with s_client(port, *verifying(place), *good) as client:
            client.say("hello\n")
            client.wait_for(r"(you said|[1-9]\d+ B of certificate:) hello")


@every_runtime
def test_both_ends_are_examples(runtime: Runtime, place: Path, pki: Pki) -> None:
    """The camera's server and a gateway's client, mutual; and the other way around."""
    credentials = [place / name for name in ("ca.der", "cert.der", "key.der")]
    answer = f"{len(pki.device.certificate)} B of certificate: hello"
    for server, client in ((runtime, None), (None, runtime)):
        arguments = (*pair(place), place / "ca.der")
        with example_server("tls/tls_server.py", server, *arguments) as (port, _):
            output = run_example(
                "tls/mutual_client.py", client, HOST, port, "localhost", *credentials
            )
            assert answer in output


# Keys as one makes them by hand with the openssl command.
KEYS = {
    "p256": ["ecparam", "-name", "prime256v1", "-genkey", "-noout"],
    "p384": ["ecparam", "-name", "secp384r1", "-genkey", "-noout"],
    "rsa": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
}


def self_signed(folder: Path, name: str, kind: str) -> tuple[Path, Path]:
    """Return certificate and key, DER, of somebody that no CA knows."""
    key, certificate = folder / f"{name}.key", folder / f"{name}.crt"
    commands = [
        [*KEYS[kind], "-out", key],
        ["req", "-new", "-x509", "-key", key, "-out", certificate, "-days", "365", "-subj",
         f"/CN={name}", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"],
        ["x509", "-in", certificate, "-outform", "DER", "-out", folder / f"{name}.der"],
        ["pkey", "-in", key, "-outform", "DER", "-out", folder / f"{name}.key.der"],
    ]  # fmt: skip
    for command in commands:
        subprocess.run([openssl(), *map(str, command)], check=True, capture_output=True)
    return folder / f"{name}.der", folder / f"{name}.key.der"


@every_runtime
@pytest.mark.parametrize("kind", list(KEYS))
def test_self_signed_on_both_sides(runtime: Runtime, kind: str, tmp_path: Path) -> None:
    """Mutual TLS without any CA: each side trusts the very certificate of the other."""
    server = self_signed(tmp_path, "server", kind)
    client = self_signed(tmp_path, "client", kind)
    for serving, calling in ((runtime, None), (None, runtime)):
        with example_server("tls/tls_server.py", serving, *server, client[0]) as (port, _):
            arguments = (HOST, port, "localhost", server[0], *client)
            assert "hello" in run_example("tls/mutual_client.py", calling, *arguments)
