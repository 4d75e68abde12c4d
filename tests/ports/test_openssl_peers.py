"""Pins and pre-shared keys with programs that others wrote: OpenSSL, GnuTLS, mosquitto, mbedTLS.

Each is a process on the loopback interface. gnutls-cli 3.7.9 crashes when it prints about an
ECDHE-PSK suite, so GnuTLS gets plain PSK.
"""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from end_to_end.fleet import free_port
from examples.programs import Program, openssl, running, s_server
from fleetnet.errors import FleetError, HandshakeTimeout, LinkClosed, Rejected, WrongPin
from fleetnet.ports.openssl_context import Context, client_context, server_context
from fleetnet.streams import open_connection, open_dtls, serve_dtls, start_server
from fleetnet_server.identity.pki import to_pem
from interpreters import Interpreter, interpreters
from pki import Pki, key_pem
from ports.peers import run_client
from ports.test_openssl_pins import pin_of

HOST = "127.0.0.1"
KEY = bytes(range(100, 116))
SURFACE = Path(__file__).with_name("surface_client.py")

FORWARD = "TLS-ECDHE-PSK-WITH-CHACHA20-POLY1305-SHA256"
PLAIN = "TLS-PSK-WITH-AES-128-GCM-SHA256"

# PLAIN only, one version each.
GNUTLS = "NORMAL:-KX-ALL:+PSK:-CIPHER-ALL:+AES-128-GCM:-VERS-ALL:+VERS-"

every_kind = pytest.mark.parametrize("datagram", [False, True], ids=["tls", "dtls"])


def command(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def version(datagram: bool) -> str:
    return "DTLSv1.2" if datagram else "TLSv1.2"


class Server:
    """Our server; it echoes a line or a datagram, and keeps what it saw."""

    def __init__(self) -> None:
        self.seen: list[tuple[bytes, bytes | None, Any]] = []
        self.listener: Any = None

    async def stream(self, reader: Any, writer: Any) -> None:
        try:
            line = await reader.readline()
            self.seen.append((line, writer._raw.psk_identity, writer.cipher()))
            writer.write(b"echo " + line)
            await writer.drain()
        except FleetError:
            pass
        writer.close()
        await writer.wait_closed()

    async def datagrams(self, link: Any) -> None:
        while data := await link.receive(30_000):
            self.seen.append((data, link.psk_identity, link.cipher()))
            link.send(b"echo " + data)


@asynccontextmanager
async def serving(context: Context) -> AsyncIterator[Server]:
    server = Server()
    if context.datagram:
        server.listener = await serve_dtls(server.datagrams, HOST, 0, ssl=context)
    else:
        server.listener = await start_server(server.stream, HOST, 0, ssl=context)
    try:
        yield server
    finally:
        server.listener.close()
        await server.listener.wait_closed()
        await asyncio.sleep(0.01)


async def until(program: Program, pattern: str) -> None:
    await asyncio.to_thread(program.wait_for, pattern)


def openssl_client(port: int, datagram: bool, identity: str, key: bytes) -> list[str]:
    kind = "-dtls1_2" if datagram else "-tls1_2"
    where = ["s_client", "-connect", f"{HOST}:{port}", kind]
    return [openssl(), *where, "-psk", key.hex(), "-psk_identity", identity]


@every_kind
@pytest.mark.parametrize(
    ("more", "suite"), [((), FORWARD), (("-cipher", "PSK-AES128-GCM-SHA256"), PLAIN)]
)
async def test_openssl_comes_to_us(datagram: bool, more: tuple[str, ...], suite: str) -> None:
    async with serving(server_context(psk={"cam-1": KEY}, datagram=datagram)) as server:
        client = openssl_client(server.listener.port, datagram, "cam-1", KEY)
        with running([*client, *more]) as program:
            await until(program, "Cipher    : [^0]")
            program.say("hello\n")
            await until(program, "echo hello")
        assert server.seen == [(b"hello\n", b"cam-1", (suite, version(datagram)))]


@every_kind
@pytest.mark.parametrize(("identity", "key"), [("cam-1", KEY[::-1]), ("cam-2", KEY)])
async def test_openssl_comes_with_the_wrong_key(datagram: bool, identity: str, key: bytes) -> None:
    async with serving(server_context(psk={"cam-1": KEY}, datagram=datagram)) as server:
        with running(openssl_client(server.listener.port, datagram, identity, key)) as program:
            await until(program, "SSL alert number 51" if datagram else "SSL alert number 20")
        assert not server.seen


async def greet(context: Context, port: int, name: str = "localhost") -> tuple[bytes, Any]:
    """Say a line, or send a datagram; return the answer and the suite."""
    if context.datagram:
        link = await open_dtls(HOST, port, context, name, 30_000)
        link.send(b"hello\n")
        answer = await link.receive(30_000)
        suite = link.cipher()
        link.close()
        return answer or b"", suite
    stream, _ = await open_connection(HOST, port, context, name, 30_000)
    async with stream:
        stream.write(b"hello\n")
        await stream.drain()
        return await asyncio.wait_for(stream.readline(), 30), stream.cipher()


async def test_we_come_to_openssl_over_tls() -> None:
    with s_server("-nocert", "-psk", KEY.hex(), "-tls1_2", "-rev") as (port, _):
        answer = await greet(client_context(psk=("cam-1", KEY)), port)
        assert answer == (b"olleh\n", (FORWARD, "TLSv1.2"))
        with pytest.raises(Rejected, match=r"does not hold .* 'cam-1'"):
            await greet(client_context(psk=("cam-1", KEY[::-1])), port)


async def test_we_come_to_openssl_over_dtls() -> None:
    options = ("-nocert", "-psk", KEY.hex(), "-dtls1_2", "-listen")
    with s_server(*options) as (port, program):
        context = client_context(psk=(b"cam-1", KEY), datagram=True)
        link = await open_dtls(HOST, port, context, timeout_ms=30_000)
        link.send(b"from the camera\n")
        await until(program, "from the camera")
        program.say("from s_server\n")
        assert await link.receive(30_000) == b"from s_server\n"
        assert link.verified and link.cipher() == (FORWARD, "DTLSv1.2")
        link.close()
    with s_server(*options) as (port, _):
        # OpenSSL is silent about what it cannot read.
        with pytest.raises(HandshakeTimeout):
            wrong = client_context(psk=("cam-1", KEY[::-1]), datagram=True)
            await open_dtls(HOST, port, wrong, timeout_ms=1500)


@every_kind
async def test_gnutls_comes_to_us(datagram: bool) -> None:
    client = [command("gnutls-cli"), *(["--udp"] if datagram else [])]
    client += ["--pskusername", "cam-1", "--priority", GNUTLS + version(datagram).replace("v", "")]
    async with serving(server_context(psk={"cam-1": KEY}, datagram=datagram)) as server:
        client += ["--port", str(server.listener.port), "--pskkey", KEY.hex(), HOST]
        with running(client) as program:
            await until(program, "Simple Client Mode")
            program.say("hello\n")
            await until(program, "echo hello")
        assert server.seen == [(b"hello\n", b"cam-1", (PLAIN, version(datagram)))]


@every_kind
async def test_we_come_to_gnutls(datagram: bool, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"cam-1:{KEY.hex()}\n")
    listen = [command("gnutls-serv"), "--echo", "--pskpasswd", str(keys), "--port", "{port}"]
    listen += ["--priority", GNUTLS + version(datagram).replace("v", "")]
    listen += ["--udp"] if datagram else []
    async with started(listen, "Echo Server listening|Server listening") as port:
        answer = await greet(client_context(psk=("cam-1", KEY), datagram=datagram), port)
        assert answer == (b"hello\n", (PLAIN, version(datagram)))


@asynccontextmanager
async def started(listen: list[str], sign: str) -> AsyncIterator[int]:
    """Run a server that takes a fixed port; yields it."""
    port = free_port()
    with running([part.replace("{port}", str(port)) for part in listen]) as program:
        await until(program, sign)
        yield port


# CONNECT of MQTT 3.1.1, clean session, client "c"; CONNACK: accepted.
CONNECT = b"\x10\x0d\0\x04MQTT\x04\x02\0\x3c\0\x01c"
CONNACK = b"\x20\x02\0\0"


async def test_we_come_to_mosquitto(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"cam-1:{KEY.hex()}\n")
    port = free_port()
    # Started by root it would go on as a user who cannot read our files.
    (tmp_path / "conf").write_text(
        f"user root\nlistener {port} {HOST}\npsk_hint fleet\npsk_file {tmp_path / 'keys'}\n"
        "use_identity_as_username true\nallow_anonymous false\n"
    )
    with running([command("mosquitto"), "-v", "-c", str(tmp_path / "conf")]) as program:
        await until(program, r"mosquitto version .* running")
        stream, _ = await open_connection(HOST, port, client_context(psk=("cam-1", KEY)))
        async with stream:
            stream.write(CONNECT)
            await stream.drain()
            assert await asyncio.wait_for(stream.readexactly(4), 30) == CONNACK
            assert stream.cipher() is not None and "-PSK-" in stream.cipher()[0]
        await until(program, "u'cam-1'")  # the broker took the identity for the user's name
        for psk in (("cam-1", KEY[::-1]), ("cam-2", KEY)):
            with pytest.raises((Rejected, LinkClosed)):
                await open_connection(HOST, port, client_context(psk=psk))


@pytest.mark.parametrize("runtime", interpreters(), ids=lambda each: each.name)
@every_kind
async def test_micropython_comes_to_us(runtime: Interpreter, datagram: bool) -> None:
    task = "say_dtls" if datagram else "say"
    async with serving(server_context(psk={"cam-1": KEY}, datagram=datagram)) as server:
        options = {"program": SURFACE, "port": server.listener.port}
        psk = ["cam-1", KEY.hex()]
        answer = await asyncio.to_thread(run_client, runtime, task, psk=psk, **options)
        if "psk" not in runtime.features:
            assert answer["error"] == "Unsupported"
            return
        assert answer["result"]["line"] == "echo hello\n"
        assert answer["result"]["cipher"] == [PLAIN, version(datagram)]
        assert server.seen == [(b"hello\n", b"cam-1", (PLAIN, version(datagram)))]
        alerts = []
        for wrong in (["cam-1", KEY[::-1].hex()], ["cam-2", KEY.hex()]):
            answer = await asyncio.to_thread(run_client, runtime, task, psk=wrong, **options)
            assert answer["error"] == "Rejected"
            alerts.append(answer["alert"])
        # None: the alert was read together with a repeated flight in front of it.
        assert set(alerts) <= ({51, None} if datagram else {20})


@pytest.mark.parametrize("tls", ["-tls1_2", "-tls1_3", "-dtls1_2"])
async def test_a_pinned_openssl(pki: Pki, tmp_path: Path, tls: str) -> None:
    (tmp_path / "c.pem").write_bytes(to_pem(pki.server_expired.certificate))
    (tmp_path / "k.pem").write_bytes(key_pem(pki.server_expired.key))
    datagram = tls == "-dtls1_2"
    options = ["-cert", tmp_path / "c.pem", "-key", tmp_path / "k.pem", tls]
    with s_server(*options, *(["-listen"] if datagram else [])) as (port, program):
        context = client_context(pins=[pin_of(pki.server)], datagram=datagram)
        with pytest.raises(WrongPin):
            await greet(context, port)
        await until(program, "SSL alert number 42")
        assert "hello" not in program.output
    with s_server(*options, *([] if datagram else ["-rev"])) as (port, program):
        context = client_context(pins=[pin_of(pki.server_expired)], datagram=datagram)
        if not datagram:
            assert (await greet(context, port))[0] == b"olleh\n"
            return
        link = await open_dtls(HOST, port, context, timeout_ms=30_000)
        link.send(b"hello\n")
        await until(program, "hello")
        link.close()


async def test_the_alert_of_a_wrong_key_comes_within_two_flights() -> None:
    async with serving(server_context(psk={"cam-1": KEY}, datagram=True)) as server:
        began = time.monotonic()
        with pytest.raises(Rejected):
            await greet(client_context(psk=("cam-2", KEY), datagram=True), server.listener.port)
        assert time.monotonic() - began < 9  # one retransmission of OpenSSL: a second
        assert server.listener.refused == 1
        assert "unknown PSK identity" in str(server.listener.last_refusal)
