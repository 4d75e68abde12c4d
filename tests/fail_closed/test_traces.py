"""What an attacker's texts do to who reads them, and what leaves the fleet without a note."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fail_closed.guest import make_fleet
from fail_closed.test_impostors import entries_of
from fleetnet_server.cli.main import main
from fleetnet_server.cli.output import print_json
from fleetnet_server.identity import pki
from fleetnet_server.log_output import make_formatter

EVIL = "evil\x1b]0;title\x07\x1b[2J\nERROR a line that nobody wrote\x9b31m\u202e"
OBEYED = ("\x1b", "\x07", "\x9b", "\u202e", "\nERROR")


def run(folder: Path, *arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(main, ["-C", str(folder), *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.output


def test_a_log_line_is_one_line_whatever_a_device_says() -> None:
    record = logging.LogRecord(
        "fleetnet.rotation", logging.WARNING, "", 0, "identity failed: %s", (EVIL,), None
    )
    line = make_formatter(as_json=False).format(record)
    assert line.isprintable()
    assert "warning  fleetnet.rotation  identity failed: evil\\x1b]0;title\\x07" in line
    try:
        raise ValueError(EVIL)
    except ValueError as error:
        record.exc_info = (ValueError, error, error.__traceback__)
    lines = make_formatter(as_json=False).format(record).splitlines()
    assert len(lines) > 3
    assert all(one.isprintable() for one in lines)


def test_json_keeps_its_values_and_obeys_nobody(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"text": EVIL, "plain": "Grün ☃ 𝄞", "odd": "\U000e0001"}
    print_json(value)
    printed = capsys.readouterr().out
    assert printed.removesuffix("\n").isprintable()
    assert json.loads(printed) == value
    assert "Grün ☃ 𝄞" in printed


def evil_ca() -> bytes:
    """A CA whose name is a sequence of commands to a terminal."""
    made = pki.create_ca()
    found = x509.load_der_x509_certificate(made.certificate)
    key = serialization.load_der_private_key(made.key, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, EVIL)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(found.not_valid_before_utc)
        .not_valid_after(found.not_valid_after_utc)
        .add_extension(x509.BasicConstraints(True, None), critical=True)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_the_name_of_a_ca_is_no_command_to_a_terminal(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    make_fleet(folder)
    path = tmp_path / "ca.pem"
    path.write_bytes(evil_ca())
    other = tmp_path / "other.pem"
    other.write_bytes(pki.to_pem(pki.create_ca("other").certificate))
    refused = ("ca", "import", "--cert", path, "--root", other)
    shown = [
        run(folder, "ca", "import", "--cert", path),
        run(folder, *refused, code=1),
        run(folder, "ca", "show"),
        run(folder, "ca", "show", "--json"),
        run(folder, "audit"),
        run(folder, "audit", "--json"),
    ]
    assert "evil" in shown[1] and "evil" in shown[2]
    for text in shown:
        assert not [one for one in OBEYED if one in text], text


def test_keys_that_leave_the_store_leave_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    make_fleet(folder)
    for name in ("cam-1", "cam-2"):
        run(folder, "psk", "add", name)
    target = tmp_path / "psk.txt"
    run(folder, "psk", "export", "--mosquitto", target)
    assert target.stat().st_mode & 0o777 == 0o600
    (entry,) = (one for one in entries_of(folder) if one.action == "psk-export")
    assert entry.actor.startswith("cli")
    assert entry.detail == {"identities": ["cam-1.1", "cam-2.1"], "file": str(target)}
    keys = [line.partition(":")[2] for line in target.read_text().splitlines()]
    rows: list[Any] = entries_of(folder)
    assert not [key for key in keys if key in repr(rows)]


def test_a_change_of_the_ca_leaves_a_note(tmp_path: Path) -> None:
    folder = tmp_path / "fleet"
    make_fleet(folder)
    run(folder, "ca", "rotate")
    run(folder, "ca", "rotate", "--switch-server")
    run(folder, "ca", "rotate", "--finish")
    notes = [
        (one.detail["issuing"], one.detail["trusted"])
        for one in entries_of(folder)
        if one.action == "ca-rotate"
    ]
    assert notes == [(2, [2, 1]), (2, [2, 1]), (2, [2])]
