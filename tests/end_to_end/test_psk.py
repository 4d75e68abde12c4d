"""Devices with pre-shared keys: a real server, real device programs, a real mosquitto."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import forked
from end_to_end.device_process import until
from end_to_end.fleet import Fleet, free_port, name_of
from end_to_end.store_check import faults_of
from examples.programs import HOST, run_example, running
from fleetnet_server.store.query import query
from interpreters import Interpreter, interpreters

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")

RUNTIMES = [*interpreters(), None]
every_runtime = pytest.mark.parametrize("runtime", RUNTIMES, ids=name_of)
every_link = pytest.mark.parametrize("link", ["tls", "dtls"])


def run(fleet: Fleet, *arguments: str) -> Any:
    """Run `fleetnet psk` beside the server; return what it says as JSON."""
    more = ("--json",) if arguments[0] != "export" else ()
    done = forked.run(fleet.arguments("psk", *arguments, *more), fleet.environment())
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout) if more else done.stdout


def add(fleet: Fleet, name: str, link: str, *options: str) -> Path:
    """Make a bundle that leads to this fleet's server."""
    bundle = Path(run(fleet, "add", name, "--bundle", "--transport", link, *options)["bundle"])
    change(bundle, host=HOST, server_hostname="localhost")
    return bundle


def change(bundle: Path, **values: object) -> None:
    path = bundle / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def identities(fleet: Fleet) -> dict[str, bool]:
    """Each identity, and whether it was used."""
    return {one["identity"]: one["used_ms"] is not None for one in run(fleet, "list")}


def can_share_keys(runtime: Interpreter | None) -> bool:
    return runtime is None or "psk" in runtime.features


@every_runtime
@every_link
async def test_a_device_and_a_server_that_is_started_again(
    fleet: Fleet, runtime: Interpreter | None, link: str
) -> None:
    add(fleet, "cam-1", link, "--bits", "128")
    device = await fleet.start_device("cam-1", link, runtime)
    if not can_share_keys(runtime):
        await until(lambda: bool(device.errors()), "the firmware was asked", explain=device.story)
        [error] = device.errors()
        assert "MicroPython 1.29" in error and "`fleetnet device add`" in error
        return
    await device.until_acknowledged(20)
    await fleet.kill_server()
    await fleet.start_server()
    await device.until_acknowledged(20)
    assert faults_of(fleet.store, await fleet.finish()) == []
    assert device.counter("connects") > 1 and device.last("link") in (link, None)
    assert identities(fleet) == {"cam-1.1": True}


@every_link
async def test_beside_devices_with_certificates(fleet: Fleet, link: str) -> None:
    add(fleet, "cam-key", link)
    for name in ("cam-key", "cam-certificate"):
        await fleet.start_device(name, link, None)
    await fleet.until_online()
    run(fleet, "remove", "cam-key")
    shared, certified = fleet.devices
    await until(lambda: bool(shared.errors()), "the key's session ended", 20, fleet.story)
    assert "revoked" in shared.errors()[0]
    await certified.until_acknowledged(20)
    assert certified.counter("connects") == 1
    await until(lambda: "its pre-shared key cam-key.1 ended" in fleet.log(), "the log says so")
    await shared.kill()
    await certified.finish()
    assert faults_of(fleet.store, [certified.account()]) == []


@every_link
async def test_another_key_under_load(fleet: Fleet, link: str, tmp_path: Path) -> None:
    """Old and new hold until the new one is seen; what the device had not sent is not lost."""
    bundle = add(fleet, "cam-1", link)
    old = tmp_path / "old"
    shutil.copytree(bundle, old)
    options: dict[str, object] = {"spool": str(tmp_path / "spool")}
    (tmp_path / "spool").mkdir()
    device = await fleet.start_device("cam-1", link, None, rate=20, options=options)
    await device.until_acknowledged(40)
    run(fleet, "rotate", "cam-1", "--bundle")
    assert identities(fleet) == {"cam-1.1": True, "cam-1.2": False}
    await device.until_acknowledged(40)
    await fleet.kill_server()
    await fleet.start_server()
    await device.until_acknowledged(40)
    assert identities(fleet) == {"cam-1.1": True, "cam-1.2": False}
    await device.finish()
    newer = await fleet.start_device("cam-1", link, None, rate=20, options=options)
    await newer.until_acknowledged(40)
    await until(lambda: identities(fleet) == {"cam-1.2": True}, "the old key was retired", 20)
    await newer.finish()
    first, second = device.account(), newer.account()
    stored = sum(1 for _ in query(fleet.store))
    assert not first.dropped and not second.dropped
    assert stored == first.sent + second.sent == first.acknowledged + second.acknowledged
    # The old one opens nothing any more, under load or not.
    shutil.rmtree(bundle)
    old.rename(bundle)
    late = await fleet.start_device("cam-1", link, None)
    await until(lambda: bool(late.errors()), "the old key is refused", explain=late.story)
    assert "does not hold this pre-shared key" in late.errors()[0]
    assert late.counter("acknowledged") == 0


@every_link
async def test_a_key_that_ends_at_once(fleet: Fleet, link: str) -> None:
    add(fleet, "cam-1", link)
    device = await fleet.start_device("cam-1", link, None)
    await fleet.until_online()
    run(fleet, "rotate", "cam-1", "--now")
    await until(lambda: bool(device.errors()), "its session ended", 20, device.story)
    assert identities(fleet) == {"cam-1.2": False}


@every_link
async def test_a_wrong_key_and_a_stranger_hear_the_same(fleet: Fleet, link: str) -> None:
    """Nothing of theirs is stored, and their errors differ in the identity alone."""
    heard = []
    for name, psk in (
        ("cam-1", {"identity": "cam-1.1", "key": "00" * 32}),
        ("cam-2", {"identity": "cam-9.1", "key": "00" * 32}),
    ):
        bundle = add(fleet, name, link)
        change(bundle, psk=psk)
        device = await fleet.start_device(name, link, None)
        await until(lambda it=device: bool(it.errors()), "it was refused", explain=device.story)  # type: ignore[misc]
        error = device.errors()[0]
        assert "does not hold this pre-shared key" in error
        heard.append(error.replace(psk["identity"], "?"))
        await device.kill()
        assert device.counter("connects") == 0
    assert heard[0] == heard[1]
    assert list(query(fleet.store)) == []
    said = "wrong pre-shared key of 'cam-1.1'", "unknown PSK identity 'cam-9.1'"
    await until(lambda: all(one in fleet.log() for one in said), "the log says what is wrong")


@pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")
async def test_the_exported_keys_in_mosquitto(fleet: Fleet, tmp_path: Path) -> None:
    key = run(fleet, "add", "cam-01")["key"]
    file = tmp_path / "psk.txt"
    assert "1 key in" in run(fleet, "export", "--mosquitto", str(file))
    port = free_port()
    configuration = tmp_path / "mosquitto.conf"
    # Without `user` a mosquitto that root started could not read the file.
    configuration.write_text(
        f"""per_listener_settings true
persistence false
log_dest stderr
log_type all
user root
listener {port} {HOST}
psk_hint fleet
psk_file {file}
use_identity_as_username true
"""
    )
    assert MOSQUITTO is not None
    with running([MOSQUITTO, "-c", str(configuration)]) as broker:
        broker.wait_for(r"mosquitto version \S+ running")
        output = run_example("mqtt_publish.py", None, HOST, port, "cam-01.1", key)
        assert "-PSK-" in output and "3 messages acknowledged" in output
        broker.wait_for(r"u'cam-01\.1'")
