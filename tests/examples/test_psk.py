"""Row 9: pre-shared keys over TLS and DTLS; firmwares without them say so."""

from pathlib import Path

import pytest

from examples.programs import (
    HOST,
    every_runtime,
    example_server,
    fail_example,
    files,
    has,
    run_example,
    s_client,
    s_server,
    started,
)
from fleetnet_server.identity.pki import to_pem
from interpreters import Interpreter
from pki import Pki, key_pem

Runtime = Interpreter | None
IDENTITY = "cam-01"
KEY = "6d0c4e2c5a8be1f3907722b1c4d5e6f708192a3b4c5d6e7f8091a2b3c4d5e6f7"
OTHER_KEY = "00" * 32
# The suites without ephemeral keys are those that boards have.
OPENSSL = ("-psk_identity", IDENTITY, "-psk", KEY, "-cipher", "PSK")
every_kind = pytest.mark.parametrize("kind", ["tls", "dtls"])


def version(kind: str) -> tuple[str, ...]:
    return ("-dtls1_2",) if kind == "dtls" else ("-tls1_2",)


@every_runtime
@every_kind
def test_client_against_openssl(runtime: Runtime, kind: str) -> None:
    if not has(runtime, "psk"):
        last = fail_example("tls/psk_client.py", runtime, kind, HOST, 1, IDENTITY, KEY)
        assert "Unsupported" in last and "MicroPython 1.29" in last
        return
    options = ["-nocert", *OPENSSL, *version(kind), *(["-listen"] if kind == "dtls" else [])]
    with (
        s_server(*options) as (port, server),
        started("tls/psk_client.py", runtime, kind, HOST, port, IDENTITY, KEY) as client,
    ):
        server.wait_for("hello")
        server.say("welcome\n")
        client.wait_for("(?s)TLS-.*PSK-.*welcome")
        assert client.finish() == 0


@every_runtime
@every_kind
def test_server_with_openssl(runtime: Runtime, kind: str) -> None:
    if not has(runtime, "psk"):
        last = fail_example("tls/psk_server.py", runtime, kind, HOST, 1, IDENTITY, KEY)
        assert "Unsupported" in last and "MicroPython 1.29" in last
        return
    with example_server(
        "tls/psk_server.py", runtime, IDENTITY, KEY, "cam-02", OTHER_KEY, before=(kind,)
    ) as (port, _):
        with s_client(port, *OPENSSL, *version(kind)) as client:
            client.wait_for(r"Cipher\s*(is|:) \S*PSK")
            client.say("hello\n")
            client.wait_for("you said hello")
        stranger = ("-psk_identity", "nobody", "-psk", KEY, "-cipher", "PSK")
        with s_client(port, *stranger, *version(kind)) as client:
            assert client.finish() != 0, client.output
            assert "you said" not in client.output


@every_runtime
@every_kind
def test_both_ends_are_examples(runtime: Runtime, kind: str) -> None:
    if not has(runtime, "psk"):
        return
    for server, client in ((runtime, None), (None, runtime)):
        with example_server(
            "tls/psk_server.py", server, IDENTITY, KEY, before=(kind,)
        ) as (port, _):
            arguments = (kind, HOST, port, IDENTITY)
            assert "you said hello" in run_example("tls/psk_client.py", client, *arguments, KEY)
            if kind == "tls":
                last = fail_example("tls/psk_client.py", client, *arguments, OTHER_KEY)
                assert "Rejected" in last or "LinkClosed" in last


@every_runtime
@every_kind
def test_server_with_a_certificate_and_no_key(
    runtime: Runtime, kind: str, pki: Pki, tmp_path: Path
) -> None:
    """Anybody can make a certificate: no byte of the program may reach such a server."""
    if not has(runtime, "psk"):
        return
    paths = files(tmp_path, crt=to_pem(pki.server.certificate), key=key_pem(pki.server.key))
    options = ["-cert", paths["crt"], "-key", paths["key"], *version(kind)]
    with s_server(*options, *(["-listen"] if kind == "dtls" else [])) as (port, server):
        last = fail_example("tls/psk_client.py", runtime, kind, HOST, port, IDENTITY, KEY)
        assert any(error in last for error in ("TrustError", "Rejected")), last
        assert "hello" not in server.output.splitlines()
