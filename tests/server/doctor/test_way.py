"""Faults between a device and a real server, and in the server's registry."""

import asyncio
import json
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bad_network import DatagramWay, Faults, Send, UdpProxy
from end_to_end.fleet import Fleet
from fleetnet_server.store.sqlite import SqliteStore
from server.cli.running import tried
from server.doctor.bundles import diagnose


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(tmp_path / "fleet") as made:
        yield made


def bundle_of(fleet: Fleet, **config: object) -> Path:
    """The bundle of cam-1, which leads to both ports of the server."""
    bundle = fleet.folder / "devices" / "cam-1"
    if not bundle.exists():
        fleet.add_device("cam-1", "auto")
    path = bundle / "config.json"
    document = json.loads(path.read_text())
    document.update(tls_port=fleet.tls[1], dtls_port=fleet.dtls[1], **config)
    path.write_text(json.dumps(document))
    return bundle


async def command(fleet: Fleet, *arguments: object) -> str:
    answer = await asyncio.to_thread(tried, "-C", fleet.folder, *arguments)
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


async def test_a_healthy_device(fleet: Fleet) -> None:
    found = await diagnose("-C", fleet.folder, "doctor", "--bundle", bundle_of(fleet))
    assert found.bad() == found.bad("warn") == []
    assert "would take cam-1 over TLS" in found.ok("session")
    assert "would take cam-1 over DTLS" in found.ok("session")
    assert "is enabled" in found.ok("registry")


# -- UDP -----------------------------------------------------------------------------------


class LargeLost(DatagramWay):
    """A way on which what is above 900 B gets lost: a tunnel that drops what it would have to
    take apart."""

    def carry(self, data: bytes, send: Send) -> None:
        if len(data) <= 900:
            super().carry(data, send)


def large_lost(proxy: UdpProxy) -> None:
    proxy.down = LargeLost(0, "down", Faults())


def all_lost(proxy: UdpProxy) -> None:
    proxy.down.faults.black_hole = True


@pytest.mark.parametrize(
    ("break_", "words", "remedy"),
    [
        (all_lost, "UDP does not pass", "open UDP port"),
        (large_lost, "large ones of the handshake are lost", "lower the MTU"),
    ],
    ids=["blocked", "mtu"],
)
async def test_udp_that_does_not_pass(
    break_: Callable[[UdpProxy], None], words: str, remedy: str, fleet: Fleet
) -> None:
    proxy = UdpProxy(fleet.dtls)
    break_(proxy)
    await proxy.start()
    try:
        arguments = ("doctor", "--timeout", 2, "--bundle")
        bundle = bundle_of(fleet, transport="auto")
        config = json.loads((bundle / "config.json").read_text())
        config["dtls_port"] = proxy.address[1]
        (bundle / "config.json").write_text(json.dumps(config))
        auto = await diagnose(*arguments, bundle)
        (bundle / "config.json").write_text(json.dumps(config | {"transport": "dtls"}))
        alone = await diagnose(*arguments, bundle)
    finally:
        await proxy.close()
    # With TLS as another way it is a warning, without it the device is cut off.
    assert auto.bad() == []
    for found in (auto.only("warn"), alone.only()):
        assert found.startswith("dtls: HandshakeTimeout")
        assert words in found
        assert remedy in found


async def test_closed_ports(fleet: Fleet) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    bundle = bundle_of(fleet, transport="dtls")
    config = json.loads((bundle / "config.json").read_text())
    (bundle / "config.json").write_text(json.dumps(config | {"dtls_port": port}))
    found = await diagnose("doctor", "--bundle", bundle)
    assert f"nothing listens on UDP port {port}" in "".join(found.bad())
    await fleet.terminate_server()
    found = await diagnose("doctor", "--bundle", bundle_of(fleet, transport="tls"))
    assert "is closed: nobody listens" in found.only()


# -- the registry --------------------------------------------------------------------------


async def test_a_disabled_device(fleet: Fleet) -> None:
    bundle = bundle_of(fleet)
    await command(fleet, "device", "disable", "cam-1")
    # The device sees it, and the server's side knows it.
    alone = await diagnose("doctor", "--bundle", bundle)
    assert "device is disabled -> `fleetnet device enable cam-1`" in alone.only()
    known = await diagnose("-C", fleet.folder, "doctor", "--name", "cam-1")
    assert known.only() == (
        "registry: device 'cam-1' is disabled -> `fleetnet device enable cam-1`"
    )
    await command(fleet, "device", "enable", "cam-1")
    assert (await diagnose("-C", fleet.folder, "doctor", "--name", "cam-1")).bad() == []


async def test_a_device_that_is_not_registered(fleet: Fleet, tmp_path: Path) -> None:
    bundle = bundle_of(fleet)
    other = Fleet(tmp_path / "other")
    found = await diagnose("-C", other.folder, "doctor", "--bundle", bundle)
    assert "device 'cam-1' is not registered here" in "".join(found.bad())


async def test_pre_shared_keys(fleet: Fleet) -> None:
    await command(fleet, "psk", "add", "cam-9", "--bundle")
    bundle = fleet.folder / "devices" / "cam-9"
    path = bundle / "config.json"
    config = json.loads(path.read_text())
    config.update(
        host="127.0.0.1", tls_port=fleet.tls[1], dtls_port=fleet.dtls[1],
        server_hostname="localhost",
    )  # fmt: skip
    path.write_text(json.dumps(config))
    arguments = ("doctor", "--timeout", 3, "--bundle", bundle)
    good = await diagnose("-C", fleet.folder, *arguments)
    assert good.bad() == []
    assert "the server has the same key" in good.ok("psk")
    identity = config["psk"]["identity"]

    key = bytes.fromhex(config["psk"]["key"])
    wrong = {"identity": identity, "key": bytes(each ^ 1 for each in key).hex()}
    path.write_text(json.dumps(config | {"psk": wrong}))
    found = await diagnose("-C", fleet.folder, *arguments)
    assert f"psk: the key of PSK identity {identity!r} is wrong" in "".join(found.bad())
    assert "psk rotate cam-9 --bundle" in "".join(found.bad())
    blind = await diagnose(*arguments)

    path.write_text(json.dumps(config | {"psk": {**wrong, "identity": "cam-9.77"}}))
    found = await diagnose("-C", fleet.folder, *arguments)
    assert "psk: the server does not know the PSK identity 'cam-9.77'" in "".join(found.bad())
    assert f"it knows {identity}" in "".join(found.bad())
    # A client cannot tell the two apart, and the doctor without the fleet's folder says no more
    # than it knows.
    also_blind = await diagnose(*arguments)
    assert [one.partition(":")[0] for one in blind.bad()] == [
        one.partition(":")[0] for one in also_blind.bad()
    ]
    assert blind.bad()


async def test_a_key_of_another_device_is_not_taken(fleet: Fleet) -> None:
    await command(fleet, "psk", "add", "cam-8", "--bundle")
    await command(fleet, "psk", "add", "cam-9", "--bundle")
    mine, theirs = (fleet.folder / "devices" / name / "config.json" for name in ("cam-8", "cam-9"))
    config = json.loads(mine.read_text())
    config["psk"] = json.loads(theirs.read_text())["psk"]
    mine.write_text(json.dumps(config))
    found = await diagnose("-C", fleet.folder, "doctor", "--timeout", 1, "--name", "cam-8")
    assert "belongs to device 'cam-9'" in "".join(found.bad())


async def test_revoked_quarantined_and_removed(fleet: Fleet, tmp_path: Path) -> None:
    bundle = shutil.copytree(bundle_of(fleet), tmp_path / "copy")  # `remove` takes it away
    arguments = ("-C", fleet.folder, "doctor", "--bundle", bundle)
    await command(fleet, "device", "revoke", "cam-1")
    found = "".join((await diagnose(*arguments)).bad())
    assert "is revoked -> give it a new bundle: `fleetnet device add cam-1 --again`" in found
    with SqliteStore(fleet.store) as store:
        store.transact(
            lambda connection: connection.execute("UPDATE devices SET state = 'quarantined'")
        )
    found = "".join((await diagnose(*arguments)).bad("warn"))
    assert "device 'cam-1' is in quarantine" in found
    await command(fleet, "device", "remove", "cam-1")
    found = "".join((await diagnose(*arguments)).bad())
    assert "device 'cam-1' was removed" in found
