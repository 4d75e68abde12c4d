"""A server known by its public key, and pre-shared keys, on real MicroPython processes.

The engine at the other end is OpenSSL. What an impostor gets to see is recorded there: it must
be nothing.
"""

import asyncio
import glob
import hashlib
import ssl
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from fleetnet.ports.cpython import Datagrams, Stream, listen, serve_datagrams
from fleetnet.ports.openssl_context import server_context
from fleetnet_server.identity.pki import Credential
from interpreters import Interpreter, interpreters
from listening import echoing
from pki import Pki
from ports.peers import HOST, VERSIONS, greet, run_client, server, server_of, write_files

PROGRAM = Path(__file__).with_name("surface_client.py")
FAKETIME = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")

every_runtime = pytest.mark.parametrize("runtime", interpreters(), ids=lambda each: each.name)
every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda each: each.name)


def pin_of(credential: Credential) -> str:
    key = x509.load_der_x509_certificate(credential.certificate).public_key()
    info = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(info).hexdigest()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def device_files(pki: Pki, folder: Path) -> dict[str, str]:
    files = write_files(folder, pki.ca, pki.device)
    return {name: files[name] for name in ("cert", "key")}


def version_of(runtime: Interpreter, version: ssl.TLSVersion) -> None:
    """Leave out what this firmware never speaks: TLS 1.3 on the configuration of boards."""
    tls_1_3 = (
        "TLS1-3"
        in runtime.run(
            "-c", "import tls; print(tls.SSLContext(tls.PROTOCOL_TLS_CLIENT).get_ciphers())"
        ).stdout
    )
    if version == ssl.TLSVersion.TLSv1_3 and not tls_1_3:
        pytest.skip("this firmware has no TLS 1.3")


@every_runtime
@every_version
@pytest.mark.parametrize("which", ["server", "server_expired", "server_future", "server_p384"])
def test_pinned_server(
    runtime: Interpreter, version: ssl.TLSVersion, which: str, pki: Pki, tmp_path: Path
) -> None:
    """Neither a CA nor a date is asked for; the device shows its own certificate."""
    version_of(runtime, version)
    credential = getattr(pki, which)
    pins = [pin_of(pki.other_ca), pin_of(credential)]
    with server(server_of(tmp_path, credential, version, pki.ca), greet) as (port, ends):
        files = device_files(pki, tmp_path)
        answer = run_client(runtime, "say", PROGRAM, port=port, pins=pins, **files)
    assert answer["result"]["line"] == "welcome\n", answer
    assert answer["result"]["mode"] == "pinned"
    assert answer["result"]["verified"] is True
    assert answer["result"]["early"] == [None, None]
    assert answer["result"]["certificate"] == sha256(credential.certificate)
    assert answer["result"]["cipher"][1] == version.name.replace("_", ".")
    assert ends == ["done"]


@every_runtime
@every_version
@pytest.mark.parametrize("task", ["say", "say_unchecked"])
def test_impostor_hears_nothing(
    runtime: Interpreter, version: ssl.TLSVersion, task: str, pki: Pki, tmp_path: Path
) -> None:
    """Also where the firmware does not call back at all: then even the right key is none.

    The program's first write drives the handshake, and would carry its bytes along.
    """
    version_of(runtime, version)
    heard: list[bytes] = []
    credential = pki.server if task == "say_unchecked" else pki.server_of_other_ca
    context = server_of(tmp_path, credential, version)
    with server(context, lambda secure: heard.append(secure.recv(100))) as (port, ends):
        answer = run_client(runtime, task, PROGRAM, port=port, pins=[pin_of(pki.server)])
    assert answer["error"] == "WrongPin", answer
    assert heard in ([], [b""]), ends
    if task == "say":
        assert pin_of(credential) in answer["text"]
        assert isinstance(ends[0], ssl.SSLError)
        assert "ACCESS_DENIED" in str(ends[0])
    else:
        assert "not checked" in answer["text"]


@every_runtime
@pytest.mark.parametrize("clock", ["1970-01-02 00:00:00", "2000-01-01 00:00:00"])
def test_clock_that_was_never_set(
    runtime: Interpreter, clock: str, pki: Pki, tmp_path: Path
) -> None:
    """A pin works; verification says what is wrong, by name and with the year."""
    if not FAKETIME:
        pytest.skip("faketime is not installed")
    fake = {"LD_PRELOAD": FAKETIME[0], "FAKETIME": f"@{clock}", "DONT_FAKE_MONOTONIC": "1"}
    answers: list[dict[str, Any]] = []
    for way in ({"pins": [pin_of(pki.server)]}, write_files(tmp_path, pki.ca)):
        with server(server_of(tmp_path, pki.server, VERSIONS[0]), greet) as (port, _):
            answers.append(run_client(runtime, "say", PROGRAM, fake, port=port, **way))
    assert answers[0]["result"]["line"] == "welcome\n"
    assert answers[1]["error"] == "CertificateNotYetValid", answers[1]
    assert f"clock says {clock[:4]}" in answers[1]["text"]
    assert "pins=" in answers[1]["text"]


@every_runtime
async def test_pinned_dtls(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    files = device_files(pki, tmp_path)
    for credential, good in ((pki.server_expired, True), (pki.server_of_other_ca, False)):
        async with echoing(pki, credential) as port:
            answer = await asyncio.to_thread(
                run_client,
                runtime,
                "say_dtls",
                PROGRAM,
                port=port,
                pins=[pin_of(pki.server_expired)],
                **files,
            )
        if good:
            assert answer["result"]["line"] == "hello\n", answer
            assert answer["result"]["mode"] == "pinned"
            assert answer["result"]["cipher"][1] == "DTLSv1.2"
            assert answer["result"]["certificate"] == sha256(credential.certificate)
        else:
            assert answer["error"] == "WrongPin", answer


@every_runtime
@pytest.mark.parametrize(
    "options",
    [
        {"pins": []},
        {"pins": ["00"]},
        {"pins": ["zz" * 32]},
        {"pins": ["00" * 32], "insecure": True},
        {"pins": ["00" * 32], "ca": "ca.der"},
        {"psk": ["a", "00" * 16], "pins": ["00" * 32]},
        {"psk": ["a", "00" * 16], "insecure": True},
    ],
)
def test_misused_pins(runtime: Interpreter, options: dict[str, Any]) -> None:
    answer = run_client(runtime, "load", PROGRAM, **options)
    assert answer["error"] == "CredentialError", answer


KEY = "5a" * 32


@every_runtime
@pytest.mark.parametrize("datagram", [False, True])
@pytest.mark.parametrize(
    ("identity", "key", "expected"),
    [("press-7", KEY, None), ("press-8", KEY, "Rejected"), ("press-7", "a5" * 32, "Rejected")],
)
async def test_pre_shared_key(
    runtime: Interpreter, datagram: bool, identity: str, key: str, expected: str | None
) -> None:
    """Towards the engine; a firmware that lacks it says so by name."""
    context = server_context(psk={"press-7": bytes.fromhex(KEY)}, datagram=datagram)
    task = "say_dtls" if datagram else "say"

    async def answer_stream(stream: Stream) -> None:
        stream.write(await stream.read(100))
        await stream.drain()

    async def answer_datagrams(datagrams: Datagrams) -> None:
        while (data := await datagrams.receive(3000)) is not None:
            datagrams.send(data)

    if datagram:
        listener: Any = await serve_datagrams(answer_datagrams, HOST, 0, context)
    else:
        listener = await listen(answer_stream, HOST, 0, context)
    answer = await asyncio.to_thread(
        run_client, runtime, task, PROGRAM, port=listener.port, psk=[identity, key]
    )
    listener.close()
    await listener.wait_closed()
    if "psk" not in runtime.features:
        assert answer["error"] == "Unsupported", answer
        assert "1.29" in answer["text"]
    elif expected is not None:
        assert answer["error"] == expected, answer
    else:
        assert answer["result"]["line"] == "hello\n", answer
        assert answer["result"]["mode"] == "psk"
        assert answer["result"]["verified"] is True
        assert "-PSK-" in answer["result"]["cipher"][0]


@every_runtime
def test_certificates_that_the_firmware_does_not_keep(
    runtime: Interpreter, pki: Pki, tmp_path: Path
) -> None:
    """Caught in passing, each for its own connection: three handshakes run at once."""
    shown = [pki.server, pki.server_p384, pki.server_elsewhere]
    folders = [tmp_path / str(number) for number in range(3)]
    servers = []
    for folder, credential in zip(folders, shown, strict=True):
        folder.mkdir()
        servers.append(server(server_of(folder, credential, VERSIONS[0]), greet))
    with servers[0] as (first, _), servers[1] as (second, _), servers[2] as (third, _):
        answer = run_client(
            runtime,
            "say_unkept",
            PROGRAM,
            ports=[first, second, third],
            pins=[pin_of(each) for each in shown],
        )
    assert answer["result"] == [
        ["welcome\n"] * 3,
        [sha256(each.certificate) for each in shown],
    ], answer
