"""Rows 1, 2, 3, 7 and 8: the client examples against `openssl s_server`."""

import glob
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from end_to_end.fleet import faked_clock
from examples.chain import Chain, make_chain
from examples.programs import (
    HOST,
    every_runtime,
    fail_example,
    files,
    run_example,
    s_server,
)
from fleetnet_server.identity.pki import to_pem
from interpreters import Interpreter
from pki import Pki, key_pem

Runtime = Interpreter | None
FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")


@pytest.fixture(scope="module")
def chain() -> Chain:
    return make_chain()


@pytest.fixture(scope="module")
def folder(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the server and its clients need, as files."""
    place = tmp_path_factory.mktemp("chain")
    files(
        place,
        root_der=chain.root,
        intermediate_der=chain.intermediate,
        leaf_der=chain.leaf,
        leaf_pem=chain.leaf_pem,
        intermediate_pem=chain.intermediate_pem,
        key_pem=chain.key_pem,
        root_pem=to_pem(chain.root),
        stranger_der=make_chain().root,
    )
    return place


@pytest.fixture
def web(folder: Path) -> Iterator[int]:
    """A web server that shows leaf and intermediate, and never its root."""
    with s_server(*chain_options(folder), "-www") as (port, _):
        yield port


def chain_options(folder: Path) -> list[object]:
    return [
        *("-cert", folder / "leaf.pem", "-key", folder / "key.pem"),
        *("-cert_chain", folder / "intermediate.pem"),
    ]


@every_runtime
def test_encryption_only_blocking(runtime: Runtime, web: int) -> None:
    output = run_example("tls/encrypt_only.py", runtime, HOST, web)
    assert "verified: False" in output
    assert "HTTP/1.0 200 ok" in output


@every_runtime
def test_encryption_only_asyncio(runtime: Runtime, web: int, folder: Path) -> None:
    store = {"SSL_CERT_FILE": str(folder / "root.pem")}
    output = run_example("tls/encrypt_only_asyncio.py", runtime, HOST, web, **store)
    assert "HTTP/1.0 200 ok" in output
    assert output.count("verifies nobody") == (0 if runtime is None else 1)
    assert f"verified: {runtime is None}" in output


def test_ssl_true_on_cpython_verifies(web: int, folder: Path) -> None:
    store = {"SSL_CERT_FILE": files(folder, none_pem=b"")["none_pem"], "SSL_CERT_DIR": str(folder)}
    assert "WrongCA" in fail_example("tls/encrypt_only_asyncio.py", None, HOST, web, **store)


@every_runtime
@pytest.mark.parametrize("name", ["localhost", HOST])
def test_verified_by_name_and_by_address(
    runtime: Runtime, name: str, web: int, folder: Path
) -> None:
    anchors = [folder / "stranger.der", folder / "root.der"]
    output = run_example("tls/verify_server.py", runtime, HOST, web, name, *anchors)
    assert "any anchor: HTTP/1.0 200 ok" in output
    assert "stranger.der: not the one" in output
    assert "root.der: HTTP/1.0 200 ok" in output


@every_runtime
@pytest.mark.parametrize(
    ("name", "anchor", "error"),
    [("localhost", "stranger.der", "WrongCA"), ("other.example", "root.der", "WrongName")],
)
def test_not_verified(
    runtime: Runtime, name: str, anchor: str, error: str, web: int, folder: Path
) -> None:
    last = fail_example("tls/verify_server.py", runtime, HOST, web, name, folder / anchor)
    assert error in last


@every_runtime
def test_the_name_is_sent(runtime: Runtime, folder: Path) -> None:
    """A server with two certificates shows the one for the name asked for (SNI)."""
    other = make_chain("other.example", None)
    paths = files(
        folder, other_der=other.intermediate, other_pem=other.leaf_pem, otherkey_pem=other.key_pem
    )
    second = ("-cert2", paths["other_pem"], "-key2", paths["otherkey_pem"])
    names = ("-servername", "other.example")
    with s_server(*chain_options(folder), *second, *names, "-www") as (port, _):
        ask = ("tls/verify_server.py", runtime, HOST, port)
        # The second certificate goes out without its intermediate, so that is the anchor.
        assert "any anchor: HTTP" in run_example(*ask, "other.example", paths["other_der"])
        assert "any anchor: HTTP" in run_example(*ask, "localhost", folder / "root.der")


@every_runtime
@pytest.mark.parametrize("anchor", ["root.der", "intermediate.der"])
def test_trust_a_ca_of_the_chain(runtime: Runtime, anchor: str, web: int, folder: Path) -> None:
    output = run_example("tls/pin.py", runtime, HOST, web, "localhost", folder / anchor)
    assert "verified: True" in output and "200 ok" in output


@every_runtime
def test_trust_the_certificate_of_the_server(runtime: Runtime, tmp_path: Path) -> None:
    """One that signed itself."""
    alone = make_chain(self_signed=True)
    paths = files(tmp_path, crt_pem=alone.leaf_pem, key_pem=alone.key_pem, crt_der=alone.leaf)
    with s_server("-cert", paths["crt_pem"], "-key", paths["key_pem"], "-www") as (port, _):
        output = run_example("tls/pin.py", runtime, HOST, port, "localhost", paths["crt_der"])
    assert "verified: True" in output and "200 ok" in output


@every_runtime
def test_trust_a_certificate_that_a_ca_signed(runtime: Runtime, web: int, folder: Path) -> None:
    """mbedTLS does not take it for an anchor: there its public key is what counts."""
    for leaf in ("leaf.der", "leaf.pem"):
        output = run_example("tls/pin.py", runtime, HOST, web, "localhost", folder / leaf)
        assert "verified: True" in output and "200 ok" in output


@every_runtime
def test_trust_the_certificate_of_another_server(
    runtime: Runtime, web: int, tmp_path: Path
) -> None:
    paths = files(tmp_path, other_der=make_chain().leaf)
    last = fail_example("tls/pin.py", runtime, HOST, web, "localhost", paths["other_der"])
    assert ("WrongCA" if runtime is None else "WrongPin") in last


@every_runtime
def test_pin_by_public_key(runtime: Runtime, web: int, chain: Chain) -> None:
    """Neither the name nor the CA matter; the next test says that the key does."""
    output = run_example("tls/pin.py", runtime, HOST, web, "anything", chain.pin)
    assert "verified: True" in output and "200 ok" in output


@every_runtime
def test_wrong_pin(runtime: Runtime, web: int) -> None:
    last = fail_example("tls/pin.py", runtime, HOST, web, "localhost", "00" * 32)
    assert "WrongPin" in last


@every_runtime
@pytest.mark.skipif(not FAKETIME, reason="faketime is not installed")
def test_a_pin_needs_no_clock(runtime: Runtime, web: int, folder: Path, chain: Chain) -> None:
    unset = faked_clock("@2000-01-01 00:00:00")
    arguments = ("tls/pin.py", runtime, HOST, web, "localhost")
    assert "verified: True" in run_example(*arguments, chain.pin, **unset)
    last = fail_example(*arguments, folder / "root.der", **unset)
    assert "CertificateNotYetValid" in last and "clock" in last


@pytest.fixture
def credentials(pki: Pki, tmp_path: Path) -> Path:
    """ca, cert and key as .der and .pem."""
    files(
        tmp_path,
        ca_der=pki.ca.certificate,
        cert_der=pki.device.certificate,
        key_der=pki.device.key,
        ca_pem=to_pem(pki.ca.certificate),
        cert_pem=to_pem(pki.device.certificate),
        key_pem=key_pem(pki.device.key),
        server_crt=to_pem(pki.server.certificate),
        server_key=key_pem(pki.server.key),
    )
    return tmp_path


def mutual_options(folder: Path) -> list[object]:
    """Options of a server that takes clients of the test CA only, and answers in reverse."""
    return [
        *("-cert", folder / "server.crt", "-key", folder / "server.key"),
        *("-CAfile", folder / "ca.pem", "-Verify", "1", "-verify_return_error", "-rev"),
    ]


@every_runtime
def test_credentials_from_everywhere(runtime: Runtime, credentials: Path) -> None:
    image = credentials / "image.romfs"
    source = credentials / "rom"
    source.mkdir()
    for name in ("ca.der", "cert.der", "key.der"):
        (source / name).write_bytes((credentials / name).read_bytes())
    command = [sys.executable, "-m", "mpremote", "romfs", "-o", str(image), "build", str(source)]
    subprocess.run(command, check=True, capture_output=True)
    with s_server(*mutual_options(credentials)) as (port, _):
        arguments = (HOST, port, "localhost", credentials, image)
        output = run_example("tls/credentials.py", runtime, *arguments)
    lines = dict(line.split(": ", 1) for line in output.splitlines())
    assert lines["DER paths"] == lines["DER bytes"] == lines["PEM paths"] == "olleh"
    assert lines["ROMFS"] == ("none here" if runtime is None else "olleh")


@every_runtime
def test_mutual_client(runtime: Runtime, credentials: Path) -> None:
    pair = [credentials / name for name in ("ca.der", "cert.der", "key.der")]
    with s_server(*mutual_options(credentials)) as (port, _):
        assert "olleh" in run_example(
            "tls/mutual_client.py", runtime, HOST, port, "localhost", *pair
        )


@every_runtime
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
def test_refused_client_is_told(
    runtime: Runtime, version: str, credentials: Path, pki: Pki
) -> None:
    if version == "-tls1_3" and runtime is not None and runtime.version >= (1, 29):
        version = "-tls1_2"  # boards have no TLS 1.3
    stranger = files(
        credentials,
        other_der=pki.device_of_other_ca.certificate,
        otherkey_der=pki.device_of_other_ca.key,
    )
    with s_server(*mutual_options(credentials), version) as (port, _):
        last = fail_example(
            "tls/mutual_client.py", runtime, HOST, port, "localhost",
            credentials / "ca.der", *stranger.values(),
        )  # fmt: skip
    assert "Rejected" in last


SUITE = "TLS-ECDHE-ECDSA-WITH-AES-128-GCM-SHA256"


@every_runtime
def test_ciphers(runtime: Runtime, folder: Path) -> None:
    with s_server(*chain_options(folder), "-www", "-tls1_2") as (port, _):
        arguments = (HOST, port, "localhost", folder / "root.der")
        output = run_example("tls/ciphers.py", runtime, *arguments, SUITE)
        assert "verify_mode 2" in output
        assert "before the handshake: None" in output
        assert f"after it: ('{SUITE}', 'TLSv1.2')" in output
        assert "200 ok" in output
        last = fail_example("tls/ciphers.py", runtime, *arguments, "TLS-NO-SUCH-SUITE")
        assert "CredentialError" in last and "TLS-NO-SUCH-SUITE" in last
