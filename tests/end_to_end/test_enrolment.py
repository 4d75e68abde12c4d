"""First contact: a device with a token and no identity, and one with a key for enrolment."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from end_to_end.fleet import name_of, runtimes
from end_to_end.rotating import RotatingFleet, wait_for
from end_to_end.store_check import faults_of
from fleetnet_server.store.claims import token_hash
from interpreters import Interpreter

# A board without a battery begins here.
YEAR_2000 = "@2000-01-01 00:00:00"


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[RotatingFleet]:
    async with RotatingFleet(tmp_path / "fleet") as made:
        yield made


@pytest.mark.parametrize("link", ["tls", "dtls"])
@pytest.mark.parametrize("runtime", runtimes(), ids=name_of)
async def test_claim_in_the_year_2000(
    fleet: RotatingFleet, runtime: Interpreter | None, link: str
) -> None:
    """Pinned first contact, time from the server, then full verification."""
    name = name_of(runtime)
    token = await fleet.claim(name, link)
    assert fleet.files(name) == ["config.json"]
    device = await fleet.start_device(name, link, runtime, clock=YEAR_2000)
    await device.until_acknowledged(1)
    assert fleet.is_settled(name, 0)
    ((hashed, closed_ms),) = fleet.read("SELECT token, closed_ms FROM claims")
    assert hashed == token_hash(token) and closed_ms is not None
    assert fleet.read("SELECT key_made FROM certificates") == [("device",)]
    # The next boot, in the year 2000 again, needs no claim.
    await device.finish()
    first = device.account()
    again = await fleet.start_device(name, link, runtime, clock=YEAR_2000)
    await again.until_acknowledged(10)
    await again.finish()
    assert fleet.read("SELECT count(*) FROM certificates") == [(1,)]
    assert (first.sent, first.dropped) == (first.acknowledged, 0)
    dated = fleet.read("SELECT min(t0), min(received) FROM messages WHERE kind = 16")[0]
    assert abs(dated[0] - dated[1]) < 60_000
    assert token not in fleet.log()


@pytest.mark.parametrize("runtime", runtimes(), ids=name_of)
async def test_a_claim_that_is_cut_short(fleet: RotatingFleet, runtime: Interpreter | None) -> None:
    """The device dies at many points of its claim; the same key is answered again."""
    name = name_of(runtime)
    await fleet.claim(name, "tls")
    for delay_ms in (100, 150, 200, 250, 300, 400):
        device = await fleet.start_device(name, "tls", runtime)
        await asyncio.sleep(delay_ms / 1000)
        await device.kill()
    device = await fleet.start_device(name, "tls", runtime)
    await device.until_acknowledged(1)
    assert fleet.working(name) == 1
    assert fleet.read("SELECT count(*) FROM claims WHERE closed_ms IS NOT NULL") == [(1,)]
    keys = fleet.read("SELECT count(*) FROM audit WHERE action = 'claim-refused'")
    assert keys == [(0,)]


async def test_the_server_dies_under_a_claim(fleet: RotatingFleet) -> None:
    await fleet.claim("cam-1", "tls")
    await fleet.kill_server()
    device = await fleet.start_device("cam-1", "tls", None)
    await wait_for(lambda: bool(device.errors()), "the device says what is wrong", fleet)
    await fleet.start_server()
    await device.until_acknowledged(1)
    assert faults_of(fleet.store, await fleet.finish()) == []


async def test_a_token_is_good_once(fleet: RotatingFleet) -> None:
    """A copy of the bundle comes too late, is refused by name, and changes nothing."""
    await fleet.claim("cam-1", "tls")
    config = (fleet.folder / "devices" / "cam-1" / "config.json").read_text()
    device = await fleet.start_device("cam-1", "tls", None)
    await device.until_acknowledged(1)
    copy = fleet.folder / "devices" / "copy"
    copy.mkdir()
    (copy / "config.json").write_text(config)
    thief = await fleet.start_device("copy", "tls", None, seconds=3)
    await wait_for(lambda: bool(thief.errors()), "the copy hears why", fleet)
    assert "claim refused: the claim was used" in thief.errors()[0]
    assert fleet.read("SELECT count(*) FROM certificates") == [(1,)]
    await thief.kill()
    await device.until_acknowledged(1)


async def test_a_new_board_for_an_old_name(fleet: RotatingFleet) -> None:
    """The board is replaced: its successor claims the name, and the old certificate ends."""
    old = await fleet.start_device("cam-1", "tls", None)
    await old.until_acknowledged(1)
    await old.kill()
    serial = fleet.read("SELECT serial FROM certificates")[0][0]
    (fleet.folder / "devices" / "cam-1").rename(fleet.folder / "old")
    await fleet.claim("cam-1", "tls")
    new = await fleet.start_device("cam-1", "tls", None)
    await new.until_acknowledged(1)
    await wait_for(lambda: fleet.good_certificates("cam-1") == 1, "the old one ends", fleet)
    revoked = fleet.read("SELECT serial FROM certificates WHERE revoked_ms IS NOT NULL")
    assert revoked == [(serial,)]


async def test_wrong_tokens_do_not_keep_others_out_for_long(fleet: RotatingFleet) -> None:
    """A device with a wrong token is slowed down by the brake, and named in the log."""
    await fleet.claim("cam-1", "tls")
    claim = json.loads((fleet.folder / "devices/cam-1/config.json").read_text())["claim"]
    fleet.change_bundle("cam-1", claim=claim | {"token": "A" * 20})
    device = await fleet.start_device("cam-1", "tls", None)
    await wait_for(lambda: bool(device.errors()), "the device says what is wrong", fleet)
    assert "no such token" in device.errors()[0]
    await wait_for(lambda: "claim-refused" in fleet.log(), "the log names it", fleet)
    assert "A" * 20 not in fleet.log()


@pytest.mark.parametrize("own_key", [False, True], ids=["key-by-server", "own-key"])
async def test_from_a_pre_shared_key_to_a_certificate(fleet: RotatingFleet, own_key: bool) -> None:
    """The key is good for the first certificate, and gone once that one works."""
    await fleet.run("psk", "add", "tag-1", "--bundle", "--enrol", "--transport", "tls")
    number = fleet.tls[1]
    fleet.change_bundle(
        "tag-1", host="127.0.0.1", tls_port=number, dtls_port=number,
        server_hostname="localhost", own_key=own_key,
    )  # fmt: skip
    device = await fleet.start_device("tag-1", "tls", None)
    await device.until_acknowledged(1)
    await fleet.until_settled({"tag-1": 0})
    await wait_for(lambda: fleet.read("SELECT * FROM psks") == [], "the key is gone", fleet)
    made = fleet.read("SELECT key_made FROM certificates")
    assert made == [("device" if own_key else "server",)]
    await device.finish()
    first = device.account()
    assert first.sent == first.acknowledged and not first.dropped
    again = await fleet.start_device("tag-1", "tls", None)
    await again.until_acknowledged(10)


async def test_the_doctor_looks_at_the_identity_that_was_fetched(fleet: RotatingFleet) -> None:
    await fleet.claim("cam-1", "tls")
    device = await fleet.start_device("cam-1", "tls", None)
    await device.until_acknowledged(1)
    bundle = str(fleet.folder / "devices" / "cam-1")
    said = await fleet.run("doctor", "--bundle", bundle)
    assert "cam-1, identity 1" in said
    await fleet.run("device", "revoke", "cam-1")
    said = await fleet.run("doctor", "--bundle", bundle, "--json", expect=1)
    assert "is revoked" in said
