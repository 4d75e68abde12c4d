"""Where a MicroPython is looked for."""

import os
import sys
from pathlib import Path

import pytest

import fleetnet
from fleetnet_server.sim.interpreters import micropythons


def put(folder: Path, version: str) -> str:
    """A program that answers the probe as a MicroPython of that version does."""
    path = folder / ".tools" / f"micropython-{version}" / "micropython"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


def test_checkout_and_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here, checkout, other = tmp_path / "here", tmp_path / "checkout", tmp_path / "other"
    expected = [(put(here, "1.25"), "1.25"), (put(checkout, "1.26"), "1.26"),
                (put(other, "1.27"), "1.27")]  # fmt: skip
    monkeypatch.setenv("PATH", os.defpath)
    monkeypatch.delenv("FLEETNET_MICROPYTHON", raising=False)
    monkeypatch.chdir(here)
    monkeypatch.setattr(fleetnet, "__file__", str(checkout / "fleetnet" / "__init__.py"))
    monkeypatch.setattr(sys, "prefix", str(other / ".venv"))
    assert [found for found in micropythons() if str(tmp_path) in found[0]] == expected
