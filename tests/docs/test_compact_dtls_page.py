"""docs/compact-dtls.md: its settings are read by the server, its numbers are those of the code."""

import re
from pathlib import Path

import pytest

from fleetnet.ports import openssl_compact as compact
from fleetnet.ports.openssl_compact import KeptAeads
from fleetnet_server.config import load_settings
from interpreters import ROOT

PAGE = (ROOT / "docs" / "compact-dtls.md").read_text(encoding="utf-8")


def test_the_ways_to_turn_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [block] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "fleetnet.toml").write_text("")
    assert load_settings(tmp_path).compact_dtls is True
    (tmp_path / "fleetnet.toml").write_text(block)
    assert load_settings(tmp_path).compact_dtls is False
    (tmp_path / "fleetnet.toml").write_text("")
    [(name, value)] = re.findall(r"`(FLEETNET_\w+)=(\w+)`", PAGE)
    monkeypatch.setenv(name, value)
    assert load_settings(tmp_path).compact_dtls is False


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (r"After ([\d,]+) records \(2\^24\.5", compact.MOST_RECORDS),
        (r"At most ([\d,]+) sessions\s+keep theirs", KeptAeads.MOST_KEPT),
        (r"A session with (\d+)\s+records or more", KeptAeads.BUSY_RECORDS),
        (r"gets 16 more in (\d+) s", KeptAeads.SWEEP_S),
        (r"at most every ([\d.]+) s \|", compact.REPEAT_PAUSE_S),
        (r"above ([\d,]+) bytes of text", compact._MOST_TEXT),
        (r"a record (\d+) or more behind", compact._WINDOW),
    ],
)
def test_its_numbers(text: str, number: float) -> None:
    [found, *_] = re.findall(text, PAGE)
    assert float(found.replace(",", "")) == number


def test_the_end_of_a_key_is_what_the_standards_say() -> None:
    assert round(2**24.5) == compact.MOST_RECORDS
    assert compact.MOST_FORGED == 2**36


def test_what_is_said_is_what_the_error_says() -> None:
    source = (ROOT / "fleetnet" / "ports" / "openssl_compact.py").read_text(encoding="utf-8")
    assert "its keys have done all that is safe: connect again" in source
    assert "its keys have done all that is safe: connect again" in " ".join(PAGE.split())
    listener = (ROOT / "server" / "fleetnet_server" / "net" / "dtls.py").read_text(encoding="utf-8")
    assert "DTLS sessions keep OpenSSL's objects" in listener
    assert "DTLS sessions keep OpenSSL's objects" in " ".join(PAGE.split())
