"""What is in deploy/ is what it says: hardened, unprivileged, and in step with the settings."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fleetnet_server.cli.serve import DRAIN_S
from fleetnet_server.config import Settings
from rules.tree import ROOT

UNIT = ROOT / "deploy" / "systemd" / "fleetnet.service"
CONTAINER = ROOT / "deploy" / "container" / "Containerfile"

# systemd-analyze security: 0 is the best; a unit without hardening has 9.6.
MOST_EXPOSED = 1.5


def program(name: str) -> str:
    """A program that `make test` installs: Debian's, or beside this Python's own."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:{Path(sys.executable).parent}")
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def complaints(text: str, folder: Path) -> str:
    """What systemd itself finds in a unit, its program aside: that is not installed here."""
    path = folder / "fleetnet.service"
    path.write_text(re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", text, flags=re.M))
    done = subprocess.run(
        [program("systemd-analyze"), "verify", "--man=no", str(path)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    return done.stdout + done.stderr


def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    text = UNIT.read_text(encoding="utf-8")
    assert complaints(text, tmp_path) == ""
    assert "ProtectHoem" in complaints(text.replace("ProtectHome", "ProtectHoem"), tmp_path)


def exposure(unit: str) -> float:
    """What systemd-analyze says of a unit file."""
    done = subprocess.run(
        [program("systemd-analyze"), "security", "--offline=true", "--no-pager", unit],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stdout + done.stderr
    return float(found[1])


def values(key: str) -> list[str]:
    """The values of a directive in the unit."""
    return re.findall(rf"^{key}=(.*)$", UNIT.read_text(encoding="utf-8"), re.M)


def test_the_unit_is_hardened() -> None:
    assert exposure(str(UNIT)) <= MOST_EXPOSED


def test_a_unit_without_hardening_would_be_noticed(tmp_path: Path) -> None:
    path = tmp_path / "fleetnet.service"
    text = UNIT.read_text(encoding="utf-8")
    path.write_text(re.sub(r"^(Protect|Private|System|Restrict|Cap).*\n", "", text, flags=re.M))
    assert exposure(str(path)) > 2 * MOST_EXPOSED


def test_the_unit_fits_the_server() -> None:
    defaults = {key: field.default for key, field in Settings.model_fields.items()}
    assert set(values("SocketBindAllow")) == {
        f"tcp:{defaults['tls_port']}", f"udp:{defaults['dtls_port']}"
    }  # fmt: skip
    assert int(values("LimitNOFILE")[0]) > 2 * defaults["max_sessions"]
    assert values("DynamicUser") == ["yes"] and values("StateDirectoryMode") == ["0700"]
    assert values("CapabilityBoundingSet") == [""]
    assert "-HUP" in values("ExecReload")[0]
    # fleetnet_server/notify.py; tests/end_to_end/test_service.py runs it.
    assert values("Type") == ["notify"] and int(values("WatchdogSec")[0]) >= 30
    assert int(values("TimeoutStopSec")[0]) > DRAIN_S
    folder = f"/var/lib/{values('StateDirectory')[0]}"
    assert f"-C {folder} serve" in values("ExecStart")[0]


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(
        [program("hadolint"), "--no-color", str(CONTAINER)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def faults(text: str) -> list[str]:
    """What is wrong with a container file, by rules that hadolint has not."""
    last = text[text.rindex("\nFROM ") :]
    user = re.search(r"^USER (\S+)$", last, re.M)
    checks = {
        "no user, or root": user is not None and re.match(r"[1-9]\d*(:\d+)?$", user[1]),
        "no folder for the state": "\nVOLUME /var/lib/fleetnet\n" in last,
        "signals do not reach the program": re.search(r'^ENTRYPOINT \["', last, re.M),
        "does not stop with SIGTERM": "\nSTOPSIGNAL SIGTERM\n" in last,
        "a base without a version": not re.search(r"^FROM (?!\S+:\d)", text, re.M),
    }
    return [name for name, is_right in checks.items() if not is_right]


def test_the_container_runs_unprivileged() -> None:
    text = CONTAINER.read_text(encoding="utf-8")
    assert faults(text) == []
    assert faults(text.replace("USER 7443:7443", "USER root")) == ["no user, or root"]
    assert faults(text.replace(":3.13-slim-bookworm", "")) == ["a base without a version"]


def test_everything_that_is_copied_is_there() -> None:
    text = CONTAINER.read_text(encoding="utf-8")
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8")
    for line in re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.M):
        for name in line.split():
            assert (ROOT / name).exists(), name
            assert f"\n!{name}\n" in ignored, name
