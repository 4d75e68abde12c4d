"""The doctor at the board's prompt, server and way: real faults, on MicroPython and CPython."""

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from cryptography import x509

from bad_network import DatagramWay, Faults, Send, UdpProxy
from end_to_end.diagnosis import bundle_of, diagnose, each_runtime
from end_to_end.fleet import Fleet
from fail_closed.rig import listener, write_bundle
from fleetnet_server.identity.authority import Authority
from fleetnet_server.store.sqlite import SqliteStore
from interpreters import Interpreter
from pki import Pki

LARGE = 600  # a HelloVerifyRequest is below 100 B, a server's certificate above 1,000


@each_runtime
async def test_a_healthy_device(runtime: Interpreter | None, fleet: Fleet) -> None:
    found = await diagnose(runtime, bundle_of(fleet))
    assert found.result["ok"] and found.result["level"] == "ok", found.text
    assert list(found.levels()) == [
        "bundle", "clock", "heap", "name", "tcp", "tls", "session", "dtls",
    ]  # fmt: skip
    assert (found.result["name"], found.result["library"]) == ("cam-1", "0.1.0")
    assert "DTLSv1.2" in found.of("dtls") and "TLSv1." in found.of("tls")


async def test_it_leaves_the_session_of_the_device_alone(fleet: Fleet) -> None:
    device = await fleet.start_device("cam-1", "tls", None)
    await device.until_acknowledged(1)
    found = await diagnose(None, bundle_of(fleet))
    assert found.result["ok"], found.text
    before = device.counter("acknowledged")
    await device.until_acknowledged(before + 10)
    assert device.counter("connects") == 1


@each_runtime
async def test_what_the_server_refuses(runtime: Interpreter | None, fleet: Fleet) -> None:
    """Unknown, disabled, revoked: the handshake is fine, the remedy is the server's."""
    bundle = bundle_of(fleet)
    ghost = fleet.folder / "devices" / "ghost"
    shutil.copytree(bundle, ghost)
    issued = Authority.load(fleet.folder).issue_device("ghost")
    (ghost / "cert.der").write_bytes(issued.certificate)
    (ghost / "key.der").write_bytes(issued.key)
    bundle_of(fleet, "ghost", name="ghost")
    found = await diagnose(runtime, ghost)
    assert found.levels()["session"] == "bad" and found.levels()["tls"] == "ok"
    assert "not registered" in found.of("session")
    assert "`fleetnet device add ghost`" in found.of("session")

    with SqliteStore(fleet.store) as store:
        store.set_enabled("cam-1", False)
    found = await diagnose(runtime, bundle)
    assert not found.result["ok"]
    assert "disabled" in found.of("session") and "device enable cam-1" in found.of("session")

    with SqliteStore(fleet.store) as store:
        store.set_enabled("cam-1", True)
        certificate = x509.load_der_x509_certificate((bundle / "cert.der").read_bytes())
        store.revoke_certificate(certificate.serial_number)
    found = await diagnose(runtime, bundle)
    assert "revoked" in found.of("session") and "device add cam-1 --again" in found.of("session")


@each_runtime
async def test_no_way_to_the_server(runtime: Interpreter | None, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")
    found = await diagnose(runtime, bundle_of(fleet), 3_000)
    assert found.levels()["tcp"] == found.levels()["dtls"] == "bad", found.text
    assert "tls" not in found.levels() and "fleetnet serve" in found.of("tcp")
    assert "nothing listens on UDP port" in found.of("dtls")
    found = await diagnose(runtime, bundle_of(fleet, host="no-such-host.invalid"), 3_000)
    assert found.levels()["name"] == "bad" and "tcp" not in found.levels()
    assert "no-such-host.invalid" in found.of("name") and "WLAN" in found.of("name")


class LargeLost(DatagramWay):
    """The way back, where large datagrams do not pass."""

    def carry(self, data: bytes, send: Send) -> None:
        if len(data) <= LARGE:
            super().carry(data, send)


@each_runtime
async def test_udp_that_does_not_pass(runtime: Interpreter | None, fleet: Fleet) -> None:
    hole = UdpProxy(fleet.dtls, down=Faults(black_hole=True))
    narrow = UdpProxy(fleet.dtls)
    narrow.down = LargeLost(0, "down", Faults())
    await hole.start()
    await narrow.start()
    try:
        bundle = bundle_of(fleet)
        for proxy, said in ((hole, "UDP does not pass"), (narrow, "MTU")):
            config = json.loads((bundle / "config.json").read_text())
            for transport, level in (("auto", "warn"), ("dtls", "bad")):
                config.update(dtls_port=proxy.address[1], transport=transport)
                (bundle / "config.json").write_text(json.dumps(config))
                found = await diagnose(runtime, bundle, 1_500)
                assert found.levels()["dtls"] == level, found.text
                assert "HandshakeTimeout" in found.of("dtls") and said in found.of("dtls")
    finally:
        await hole.close()
        await narrow.close()


UNTRUSTED = {
    "server_of_other_ca": ("WrongCA", "make the bundle again"),
    "server_expired": ("CertificateExpired", "cert server"),
    "server_future": ("CertificateNotYetValid", "clock"),
    "server_elsewhere": ("WrongName", "cert server --host"),
}


@each_runtime
@pytest.mark.parametrize("link", ["tls1.3", "dtls"])
async def test_servers_not_to_be_trusted(
    link: str, runtime: Interpreter | None, pki: Pki, tmp_path: Path
) -> None:
    for case, (error, remedy) in UNTRUSTED.items():
        async with listener(getattr(pki, case), pki.ca, link) as (number, ears):
            bundle = write_bundle(tmp_path / case, pki.ca, pki.device, link, number)
            found = await diagnose(runtime, bundle, 3_000)
            check = "dtls" if link == "dtls" else "tls"
            assert found.levels()[check] == "bad", found.text
            assert error in found.of(check) and remedy in found.of(check), found.text
            assert ears.heard == 0


@each_runtime
@pytest.mark.parametrize("link", ["tls1.2", "dtls"])
async def test_a_device_of_another_ca(
    link: str, runtime: Interpreter | None, pki: Pki, tmp_path: Path
) -> None:
    async with listener(pki.server, pki.ca, link) as (number, _):
        bundle = write_bundle(tmp_path / "b", pki.ca, pki.device_of_other_ca, link, number)
        found = await diagnose(runtime, bundle, 3_000)
        check = "dtls" if link == "dtls" else "tls"
        assert found.levels()[check] == "bad", found.text
        assert "alert 48" in found.of(check) and "trusts another CA" in found.of(check), found.text


@each_runtime
async def test_something_else_listens_there(runtime: Interpreter | None, fleet: Fleet) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example.org ESMTP\r\n")
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    async with server:
        bundle = bundle_of(fleet)
        config = json.loads((bundle / "config.json").read_text())
        config.update(tls_port=server.sockets[0].getsockname()[1], transport="tls")
        (bundle / "config.json").write_text(json.dumps(config))
        found = await diagnose(runtime, bundle, 3_000)
        assert found.levels()["tcp"] == "ok" and found.levels()["tls"] == "bad", found.text
        assert "fleetnet's port" in found.of("tls"), found.text
