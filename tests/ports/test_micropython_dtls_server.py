"""serve_dtls on real MicroPython: many clients on one socket, and who gets no place there."""

import asyncio
import contextlib
import hashlib
import os
import ssl
import subprocess
import time
from pathlib import Path

import pytest

from fleetnet.errors import FleetError, Rejected
from fleetnet.ports.cpython import open_datagram
from fleetnet.ports.openssl_context import client_context
from fleetnet_server.identity.pki import issue_device
from interpreters import Interpreter, interpreters
from pki import Pki, key_pem
from ports.datagram_hub import Puppet, echo, hub, join
from ports.peers import HOST, PATIENCE_S, run_client, write_files

CLIENT = Path(__file__).with_name("surface_client.py")

able = [each for each in interpreters() if "dtls_server" in each.features]
unable = [each for each in interpreters() if "dtls_server" not in each.features]
every_server = pytest.mark.parametrize("runtime", able, ids=lambda each: each.name)


@pytest.mark.parametrize("runtime", unable, ids=lambda each: each.name)
async def test_firmware_that_cannot_serve(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    async with hub(runtime, tmp_path, pki) as server:
        answer = await server.hear("error")
    assert answer["error"] == "Unsupported"
    assert "1.26" in answer["text"]


@every_server
async def test_several_at_once(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    """Each has its own certificate and gets its own answers, in whatever order they speak."""
    devices = [issue_device(pki.ca, f"camera-{number}") for number in range(4)]
    async with hub(runtime, tmp_path, pki) as server:
        await server.hear("listening")
        clients = await asyncio.gather(*[join(server, pki, device) for device in devices])
        ups = [await server.hear("up") for _ in clients]
        for turn in range(5):
            for number, client in enumerate(clients):
                client.send(b"%d of %d" % (turn, number))
            for number, client in reversed(list(enumerate(clients))):
                assert await client.receive(30_000) == b"echo %d of %d" % (turn, number)
        shown = {up["certificate"] for up in ups}
        assert shown == {hashlib.sha256(each.certificate).hexdigest() for each in devices}
        assert all(up["up"][0] == HOST for up in ups)
        assert all(up["verified"] and up["cipher"][1] == "DTLSv1.2" for up in ups)
        clients[0].send(b"state")
        state = await server.hear("clients")
        assert (state["clients"], state["newcomers"], state["refused"]) == (4, 0, 0)
        # One leaves; the rest does not notice.
        clients[3].send(b"end")
        await echo(clients[0], b"still here")
        clients[0].send(b"state")
        assert (await server.hear("clients"))["clients"] == 3
        clients[0].send(b"end all")
        assert (await server.hear("closed")) == {"closed": 4}
        assert await server.process.wait() == 0


@every_server
@pytest.mark.parametrize("other", interpreters(), ids=lambda each: each.name)
async def test_micropython_clients(
    runtime: Interpreter, other: Interpreter, pki: Pki, tmp_path: Path
) -> None:
    files = write_files(tmp_path, pki.ca, pki.device)
    async with hub(runtime, tmp_path, pki) as server:
        await server.hear("listening")
        answers = await asyncio.gather(
            *[
                asyncio.to_thread(run_client, other, "say_dtls", CLIENT, port=server.port, **files)
                for _ in range(3)
            ]
        )
    for answer in answers:
        assert answer["result"]["line"] == "echo hello\n", answer
        assert answer["result"]["mode"] == "verified"
        assert answer["result"]["certificate"] == hashlib.sha256(pki.server.certificate).hexdigest()


@every_server
async def test_openssl_as_a_client(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    (tmp_path / "ca").write_text(ssl.DER_cert_to_PEM_cert(pki.ca.certificate))
    (tmp_path / "cert").write_text(ssl.DER_cert_to_PEM_cert(pki.device.certificate))
    (tmp_path / "key").write_bytes(key_pem(pki.device.key))
    async with hub(runtime, tmp_path, pki) as server:
        await server.hear("listening")
        command = ["openssl", "s_client", "-dtls1_2", "-quiet", "-verify_return_error"]
        command += ["-connect", f"{HOST}:{server.port}", "-CAfile", str(tmp_path / "ca")]
        command += ["-cert", str(tmp_path / "cert"), "-key", str(tmp_path / "key")]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        assert process.stdin is not None and process.stdout is not None
        try:
            await server.hear("up")
            process.stdin.write(b"good day\n")
            async with asyncio.timeout(PATIENCE_S):
                assert await process.stdout.readline() == b"echo good day\n"
        finally:
            process.kill()  # over UDP it does not end at the end of its input
            await process.communicate()


@every_server
@pytest.mark.parametrize("which", ["device_of_other_ca", "device_expired", None])
async def test_refused_client(
    runtime: Interpreter, which: str | None, pki: Pki, tmp_path: Path
) -> None:
    """It is told so by an alert, and nobody else is disturbed."""
    async with hub(runtime, tmp_path, pki) as server:
        await server.hear("listening")
        good = await join(server, pki)
        pair = getattr(pki, which) if which else ()
        context = client_context(pki.ca.certificate, *pair, datagram=True)
        with pytest.raises(Rejected):
            await open_datagram(HOST, server.port, context, "localhost", 8000)
        await echo(good, b"undisturbed")
        good.send(b"state")
        state = await server.hear("clients")
    last = "CertificateExpired" if which == "device_expired" else "WrongCA"
    assert state == {"clients": 1, "newcomers": 0, "refused": 1, "last": last}


@every_server
async def test_rebooted_client(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    """Same address, no goodbye: the old association ends when the new handshake has."""
    async with hub(runtime, tmp_path, pki) as server:
        await server.hear("listening")
        before = Puppet(server, pki)
        before.hello()
        await before.finish()
        await before.echo(b"before")
        before.close()  # without a close_notify: the power went
        after = Puppet(server, pki, before.port)
        after.hello()
        await after.finish()
        await after.echo(b"after")
        ended = await server.hear("ended")
        after.ssl.write(b"state")
        after.transmit()
        state = await server.hear("clients")
        after.close()
    assert ended == {"ended": [HOST, before.port], "error": "LinkClosed"}
    assert (state["clients"], state["newcomers"]) == (1, 0)


@every_server
async def test_hello_in_somebody_elses_name(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    """An old hello again, a new one without a cookie, one with a false cookie, and noise, all
    from a client's own address: it goes on talking."""
    async with hub(runtime, tmp_path, pki) as server:
        await server.hear("listening")
        client = Puppet(server, pki)
        first = client.hello()
        await client.finish()
        other = Puppet(server, pki)
        new = other.hello()
        other.close()
        # Length of the cookie, behind the random and an empty session id.
        at = 13 + 12 + 2 + 32 + 1
        false = bytearray(new[:at] + bytes([4]) + b"fake" + new[at + 1 :])
        for where in (11, 14, 22):  # record length; handshake length and fragment length
            width = 2 if where == 11 else 3
            size = int.from_bytes(false[where : where + width], "big") + 4
            false[where : where + width] = size.to_bytes(width, "big")
        for intruder in (first, new, bytes(false), b"\x16", os.urandom(200), b"\x16" * 100):
            client.sock.send(intruder)
        await client.echo(b"mine")
        client.ssl.write(b"state")
        client.transmit()
        state = await server.hear("clients")
        client.close()
    assert (state["clients"], state["newcomers"], state["refused"]) == (1, 0, 0)


@every_server
async def test_strangers_are_forgotten(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    """Hellos without a cookie get at most an answer of their own size, and no place."""
    async with hub(runtime, tmp_path, pki) as server:
        await server.hear("listening")
        client = Puppet(server, pki)
        client.hello()
        await client.finish()
        strangers = [Puppet(server, pki) for _ in range(100)]
        began = time.monotonic()
        sizes = [(len(each.hello()), await each.take(0.02)) for each in strangers]
        seconds = time.monotonic() - began
        await client.echo(b"between them")
        client.ssl.write(b"state")
        client.transmit()
        state = await server.hear("clients")
        for each in (*strangers, client):
            each.close()
    answers = [(asked, answer) for asked, answer in sizes if answer]
    # At most 30 in a second; so many of its seconds does this time touch at most.
    assert 1 <= len(answers) <= 30 * (seconds + 2)
    for asked, answer in answers:
        assert len(answer) <= asked
        assert answer[13] == 3  # HelloVerifyRequest
    assert (state["clients"], state["newcomers"], state["refused"]) == (1, 0, 0)


@every_server
async def test_full_house(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    limits = {"MAX_CLIENTS": 2}
    async with hub(runtime, tmp_path, pki, limits=limits) as server:
        await server.hear("listening")
        clients = [await join(server, pki) for _ in range(2)]
        for client in clients:
            await echo(client, b"in")
        late = await join(server, pki)
        late.send(b"in?")
        with contextlib.suppress(FleetError):
            assert await late.receive(300) is None
        clients[0].send(b"state")
        state = await server.hear("clients")
        assert state == {"clients": 2, "newcomers": 0, "refused": 1, "last": "LimitError"}
        clients[1].send(b"end")
        await echo(clients[0], b"still here")
        again = await join(server, pki)
        await echo(again, b"now")


@every_server
async def test_callback_that_does_not_keep_up(
    runtime: Interpreter, pki: Pki, tmp_path: Path
) -> None:
    """Its datagrams wait up to a limit; those of the others are not held up."""
    async with hub(runtime, tmp_path, pki, limits={"MAX_WAITING": 3}) as server:
        await server.hear("listening")
        busy, other = await join(server, pki), await join(server, pki)
        busy.send(b"nap")
        await asyncio.sleep(0.1)
        for number in range(10):
            busy.send(b"%d" % number)
            await echo(other, b"meanwhile")
        answers = []
        while (answer := await busy.receive(1000)) is not None:
            answers.append(answer)
    assert answers == [b"echo 0", b"echo 1", b"echo 2"]


@every_server
async def test_handshake_that_stops_half_way(
    runtime: Interpreter, pki: Pki, tmp_path: Path
) -> None:
    """It holds one of the few places for handshakes until its deadline, and no longer."""
    limits = {"HANDSHAKE_MS": 900, "MAX_HANDSHAKES": 1}
    async with hub(runtime, tmp_path, pki, limits=limits) as server:
        await server.hear("listening")
        idle = Puppet(server, pki)
        idle.hello()
        cookie = await idle.take()
        assert cookie is not None
        idle.ssl.feed(cookie)
        idle.ssl.handshake()
        idle.transmit()
        assert await idle.take() is not None  # the server's flight: it has a place now
        client = await join(server, pki)
        client.send(b"state")
        state = await server.hear("clients")
        idle.close()
    assert state.pop("refused") >= 1  # the client as well, where the machine is very busy
    assert state == {"clients": 1, "newcomers": 0, "last": "HandshakeTimeout"}


@every_server
async def test_pre_shared_keys(runtime: Interpreter, pki: Pki, tmp_path: Path) -> None:
    """Where the firmware has them; elsewhere the context says so by name."""
    key = bytes(range(32))
    nothing = {"cert": None, "key": None, "ca": None}
    async with hub(runtime, tmp_path, pki, psk={"press-7": key.hex()}, **nothing) as server:
        if "psk" not in runtime.features:
            answer = await server.hear("error")
            assert answer["error"] == "Unsupported" and "1.29" in answer["text"]
            return
        await server.hear("listening")
        context = client_context(psk=("press-7", key), datagram=True)
        client = await open_datagram(HOST, server.port, context, "localhost", 8000)
        server.clients.append(client)
        await echo(client, b"shared")
        up = await server.hear("up")
        assert "-PSK-" in up["cipher"][0] and up["verified"] and up["certificate"] is None
        context = client_context(psk=("press-8", key), datagram=True)
        with pytest.raises(Rejected):
            await open_datagram(HOST, server.port, context, "localhost", 8000)
