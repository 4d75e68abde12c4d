"""Identities on real file systems, and certificates that do not fit the device."""

import subprocess

import pytest

from fleetnet.errors import CredentialError
from fleetnet_device.identity import check
from fleetnet_device.identity_slots import Identity
from interpreters import ROOT, Interpreter, interpreters
from pki import Pki


def power_cuts(interpreter: Interpreter, *arguments: str) -> tuple[int, int, str]:
    script = str(ROOT / "tests" / "device" / "identity_on_vfs.py")
    done = subprocess.run(
        [interpreter.path, script, str(ROOT), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    words = done.stdout.split()
    assert words[:1] == ["cuts"], done.stdout + done.stderr
    return int(words[1]), int(words[3]), done.stdout


@pytest.mark.parametrize(("kind", "stride"), [("littlefs", "1"), ("fat", "1")])
@pytest.mark.parametrize("interpreter", interpreters(), ids=lambda each: each.name)
def test_power_cut_at_block_writes(interpreter: Interpreter, kind: str, stride: str) -> None:
    cuts, bad, said = power_cuts(interpreter, kind, stride)
    print(interpreter.name, kind, said)
    assert cuts > 60 and bad == 0, said


@pytest.mark.parametrize("interpreter", interpreters()[:1], ids=lambda each: each.name)
def test_the_power_cuts_are_seen(interpreter: Interpreter) -> None:
    _, bad, said = power_cuts(interpreter, "littlefs", "5", "careless")
    assert bad > 5, said


def identity(pki: Pki, pair: str = "device", key: str = "", **more: object) -> Identity:
    made = Identity(
        1, getattr(pki, pair).certificate, getattr(pki, key or pair).key, [pki.ca.certificate], []
    )
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_an_identity_that_fits(pki: Pki) -> None:
    check(identity(pki), "press-7")
    check(identity(pki, anchors=[pki.ca.certificate, pki.other_ca.certificate]), "press-7")


def test_what_does_not_fit_is_refused_before_it_is_written(pki: Pki) -> None:
    for made, words in (
        (identity(pki, "server"), "certificate is for nobody"),
        (identity(pki, key="device_of_other_ca"), "key does not match"),
        (identity(pki, key="server"), "key does not match"),
        (identity(pki, anchors=[b"\x30\x06anchor"]), "trust anchor"),
        (identity(pki, certificate=b"\x30\x04cert"), "certificate"),
    ):
        with pytest.raises(CredentialError, match=words):
            check(made, "press-7")
    with pytest.raises(CredentialError, match=r"device:press-7.*this is .*press-8"):
        check(identity(pki), "press-8")
