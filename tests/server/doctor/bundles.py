"""Bundles with something wrong about them, and the doctor that looks at them."""

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

from click.testing import CliRunner
from cryptography.x509.oid import ExtendedKeyUsageOID

from fleetnet_server.cli.main import main
from server.cli.running import COMMAND, environment
from server.identity.chains import Party, server


class Diagnosis:
    """What `fleetnet doctor --json` said."""

    def __init__(self, text: str, code: int):
        self.document: dict[str, Any] = json.loads(text)
        self.findings: list[dict[str, str]] = self.document["findings"]
        assert code == (0 if self.document["ok"] else 1), text
        for each in self.findings:
            assert (each["level"] == "ok") == (each["remedy"] == ""), each
            assert "\n" not in each["remedy"]

    def bad(self, level: str = "bad") -> list[str]:
        """check: text -> remedy of what is of that level."""
        return [
            f"{each['check']}: {each['text']} -> {each['remedy']}"
            for each in self.findings
            if each["level"] == level
        ]

    def only(self, level: str = "bad") -> str:
        """The one finding of that level: a cause is named once."""
        (found,) = self.bad(level)
        return found

    def ok(self, check: str) -> str:
        return " ".join(
            each["text"]
            for each in self.findings
            if each["check"] == check and each["level"] == "ok"
        )


def doctor(*arguments: object) -> Diagnosis:
    """Run `fleetnet ... doctor --json`; what stands before "doctor" is given first."""
    words = [str(each) for each in arguments]
    if "doctor" not in words:
        words.insert(0, "doctor")
    answer = CliRunner().invoke(main, [*words, "--json"])
    assert answer.exception is None or isinstance(answer.exception, SystemExit), answer.output
    assert answer.stdout, answer.stderr
    return Diagnosis(answer.stdout, answer.exit_code)


async def diagnose(*arguments: object) -> Diagnosis:
    """As doctor, while this loop serves what the doctor connects to."""
    return await asyncio.to_thread(doctor, *arguments)


def doctor_at(clock: dict[str, str], *arguments: object) -> Diagnosis:
    """As doctor, in a process that believes another time; see end_to_end.fleet.faked_clock."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments), "--json"],
        capture_output=True, text=True, check=False, timeout=120, env=environment(**clock),
    )  # fmt: skip
    assert done.stdout, done.stderr
    return Diagnosis(done.stdout, done.returncode)


def device_leaf(signer: Party, name: str = "cam-1", **how: Any) -> Party:
    """A device's certificate: its name is a URN."""
    urn = f"urn:fleetnet:device:{name}"
    return server(signer, [urn], usage=ExtendedKeyUsageOID.CLIENT_AUTH, **how)


def make_bundle(
    folder: Path, leaf: Party, anchor: Party, port: int = 1, **config: object
) -> Path:
    """Lay out a bundle for cam-1 that leads to a TLS port of this machine."""
    bundle = folder / "bundle"
    bundle.mkdir(exist_ok=True)
    (bundle / "cert.der").write_bytes(leaf.der)
    (bundle / "key.der").write_bytes(leaf.key_der)
    (bundle / "ca.der").write_bytes(anchor.der)
    document = {
        "name": "cam-1", "host": "localhost", "tls_port": port, "dtls_port": port,
        "server_hostname": "localhost", "transport": "tls",
    }  # fmt: skip
    (bundle / "config.json").write_text(json.dumps(document | config))
    return bundle
