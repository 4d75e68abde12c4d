"""The doctor at the board's prompt, the board itself: bundle, flash, clock, heap."""

import asyncio
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from end_to_end.diagnosis import bundle_of, diagnose, each_micropython, each_runtime
from end_to_end.fleet import Fleet
from fleetnet_device.identity_slots import Identity, Slots
from fleetnet_server.identity.authority import Authority
from fleetnet_server.sim.interpreters import device_environment
from fleetnet_server.store.sqlite import SqliteStore
from interpreters import Interpreter
from pki import Pki, key_pem

BIRTH = Path(__file__).parent.parent / "device" / "key_birth.py"


@each_runtime
async def test_an_identity_on_the_flash(runtime: Interpreter | None, fleet: Fleet) -> None:
    """Its key was born on the device; the bundle's pair is gone, as after a renewal."""
    bundle = bundle_of(fleet)
    done = await asyncio.create_subprocess_exec(
        runtime.path if runtime else sys.executable, str(BIRTH), "cam-1", "1",
        env=device_environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    key, request = map(bytes.fromhex, (await done.communicate())[0].decode().split())
    authority = Authority.load(fleet.folder)
    issued = authority.sign_request(request, "cam-1")
    with SqliteStore(fleet.store) as store:
        device = store.lookup("cam-1")
        assert device is not None
        store.add_certificate(device.id, issued.serial, issued.not_after_ms)
    config = json.loads((bundle / "config.json").read_text())
    mark = f"cam-1 {config['made_ms']}"
    slots = Slots(str(bundle), mark, str(bundle), Identity(0, None, None, None, []))
    anchors = list(authority.anchors)
    slots.switch(slots.write(Identity(3, issued.certificate, key, anchors, [], True)))
    for name in ("cert.der", "key.der", "ca.der"):
        (bundle / name).unlink()
    found = await diagnose(runtime, bundle)
    assert found.result["level"] == "ok", found.text
    assert "identity 3 of the flash" in found.of("bundle")
    # The same in the folder of a spool.
    spool = fleet.folder / "spool"
    spool.mkdir()
    for path in bundle.glob("identity*"):
        path.rename(spool / path.name)
    found = await diagnose(runtime, bundle)
    assert found.levels() == {"bundle": "bad"} and "no ca.der" in found.text, found.text
    found = await diagnose(runtime, bundle, spool=spool)
    assert found.result["level"] == "ok" and "identity 3" in found.of("bundle"), found.text


# Faults of the bundle: what to do to it, and words of what must be said.


def unlink(file: str) -> Callable[[Path, Pki], object]:
    return lambda bundle, pki: (bundle / file).unlink()


def text(content: str) -> Callable[[Path, Pki], object]:
    return lambda bundle, pki: (bundle / "config.json").write_text(content)


def cut(bundle: Path, pki: Pki) -> None:
    (bundle / "cert.der").write_bytes((bundle / "cert.der").read_bytes()[:200])


def other_key(bundle: Path, pki: Pki) -> None:
    (bundle / "key.der").write_bytes(pki.device.key)


def ed25519(bundle: Path, pki: Pki) -> None:
    (bundle / "cert.der").write_bytes(pki.ed25519.certificate)
    (bundle / "key.der").write_bytes(pki.ed25519.key)


def junk(bundle: Path, pki: Pki) -> None:
    (bundle / "ca.der").write_bytes(b"\0" * 5000)


def not_der(bundle: Path, pki: Pki) -> None:
    (bundle / "ca.der").write_bytes(b"hello")


BAD_BUNDLES = {
    "no config": (unlink("config.json"), "no ", "device add"),
    "not JSON": (text("nonsense"), "not JSON", "copy"),
    "JSON of another kind": (text("[1]"), "config.json", "copy"),
    "no host": (text('{"name": "cam-1"}'), "lacks 'host'", "copy"),
    "no ca": (unlink("ca.der"), "no ca.der", "copy"),
    "no cert": (unlink("cert.der"), "no cert.der", "copy"),
    "cut": (cut, "certificate", "copy"),
    "other key": (other_key, "the certificate", "copy"),
    "ed25519": (ed25519, "Ed25519", "P-256"),
    "junk": (junk, "above 4096 B", "right file"),
    "not DER": (not_der, "neither DER nor PEM", "copy"),
}


@each_runtime
async def test_a_bad_bundle(runtime: Interpreter | None, pki: Pki, tmp_path: Path) -> None:
    fleet = Fleet(tmp_path / "fleet")  # not started: nothing is connected with such a bundle
    whole = bundle_of(fleet)
    for case, (spoil, said, remedy) in BAD_BUNDLES.items():
        bundle = tmp_path / "spoiled"
        shutil.rmtree(bundle, ignore_errors=True)
        shutil.copytree(whole, bundle)
        spoil(bundle, pki)
        found = await diagnose(runtime, bundle)
        assert found.levels() == {"bundle": "bad"}, (case, found.text)
        assert said in found.of("bundle") and remedy in found.of("bundle"), (case, found.text)


@each_runtime
async def test_pem_is_told(runtime: Interpreter | None, fleet: Fleet) -> None:
    bundle = bundle_of(fleet)
    certificate = x509.load_der_x509_certificate((bundle / "cert.der").read_bytes())
    (bundle / "cert.der").write_bytes(certificate.public_bytes(Encoding.PEM))
    (bundle / "key.der").write_bytes(key_pem((bundle / "key.der").read_bytes()))
    found = await diagnose(runtime, bundle)
    assert found.levels()["bundle"] == "warn" and found.result["ok"], found.text
    assert "fleetnet cert convert FILE cert.der --camera" in found.text
    assert "fleetnet cert convert FILE key.der --camera" in found.text


@each_runtime
async def test_clocks(runtime: Interpreter | None, fleet: Fleet) -> None:
    bundle = bundle_of(fleet)
    for clock in ("@1970-01-02 00:00:00", "@2000-01-02 00:00:00", "@2024-06-01 00:00:00"):
        found = await diagnose(runtime, bundle, clock=clock)
        assert found.result["ok"] and found.levels()["clock"] == "warn", found.text
        assert "known by its key" in found.of("clock")
    found = await diagnose(runtime, bundle, clock="+5y")
    assert "this device's certificate ended on" in found.of("clock"), found.text
    assert "device add cam-1 --again" in found.of("clock")
    bundle_of(fleet, pins=[])
    found = await diagnose(runtime, bundle, clock="@2000-01-02 00:00:00")
    assert found.levels()["clock"] == found.levels()["tls"] == found.levels()["dtls"] == "bad"
    assert '"pins" or "ntp"' in found.of("clock")
    assert "CertificateNotYetValid" in found.of("tls"), found.text
    # Made by a PC whose clock was behind: the bundle has no date that would tell.
    bundle_of(fleet, made_ms=0)
    found = await diagnose(runtime, bundle, clock="@2024-06-01 00:00:00")
    assert "not valid yet" in found.of("clock") and found.levels()["clock"] == "bad"


@each_micropython
async def test_small_heaps(runtime: Interpreter, fleet: Fleet) -> None:
    """The modules are loaded, then the program fills the heap."""
    fill = (
        "import gc\nfrom fleetnet_device import doctor_bundle, doctor_network, doctor_remedies\n"
        "import fleetnet.ports.micropython_dtls, fleetnet.ports.micropython_errors\n"
        "import fleetnet.ports.micropython_streams, fleetnet.receiver, fleetnet.recovery\n"
        "hog = None\ngc.collect()\nspares = [bytearray(%d) for _ in range(%d)]\n"
        "spares.append(bytearray(8))\nat = 0\neach = range(0, len(spares) - 1, 2)\n"
        "try:\n    while True:\n        hog = (bytearray(100), hog)\n"
        "except MemoryError:\n"
        "    for at in each:\n        spares[at] = None\ngc.collect()\n"
    )
    bundle = bundle_of(fleet)
    options = ("-X", "heapsize=1M")
    more = "from fleetnet_device import doctor\ndoctor._SESSION_BYTES = 2_000_000"
    found = await diagnose(runtime, bundle, 3_000, "", options, more)
    assert found.levels()["heap"] == "warn" and "wants 2000000 B" in found.of("heap"), found.text
    # Debian's interpreters keep mbedTLS off this heap: what is told there is no verdict.
    assert found.result["ok"] and found.levels()["tls"] == "ok", found.text
    found = await diagnose(runtime, bundle, 3_000, "", options, fill % (17_000, 5))
    assert "no block of 17408 B" in found.of("heap"), found.text
    assert "docs/memory.md" in found.of("heap") and found.levels()["heap"] == "warn"
    # So little that the library itself finds no room: told by name, and never a traceback.
    found = await diagnose(runtime, bundle, 3_000, "", options, fill % (2_000, 1))
    assert not found.result["ok"] and found.levels()["heap"] == "bad", found.text


@each_runtime
async def test_a_psk_where_there_is_none(runtime: Interpreter | None, fleet: Fleet) -> None:
    bundle = bundle_of(fleet, psk={"identity": "cam-1.1", "key": "a5" * 32})
    for file in ("ca.der", "cert.der", "key.der"):
        (bundle / file).unlink()
    found = await diagnose(runtime, bundle, 3_000)
    assert "a5a5" not in found.text
    if runtime is None or "psk" in runtime.features:
        assert "pre-shared key" in found.of("bundle"), found.text
    else:
        assert found.levels() == {"bundle": "bad"}, found.text
        assert "cannot use it" in found.of("bundle") and "certificates" in found.of("bundle")


@each_runtime
async def test_nothing_private_is_printed(runtime: Interpreter | None, fleet: Fleet) -> None:
    network = {"kind": "wlan", "ssid": "attic", "key": "not-for-the-screen"}
    bundle = bundle_of(fleet, network=network)
    found = await diagnose(runtime, bundle)
    assert found.levels()["network"] == "bad" and "tcp" not in found.levels()
    assert "no network module" in found.of("network")
    assert "not-for-the-screen" not in found.text
