"""Settings: file, environment, and errors that name key and place."""

from pathlib import Path

import pytest

from fleetnet_server.config import load_settings
from fleetnet_server.errors import ConfigError


def write(folder: Path, text: str) -> Path:
    (folder / "fleetnet.toml").write_text(text)
    return folder


def test_the_environment_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path, 'host = "fleet.example"\ntls_port = 1\n')
    monkeypatch.setenv("FLEETNET_TLS_PORT", "2")
    monkeypatch.setenv("FLEETNET_FOLDER", "elsewhere")
    settings = load_settings(folder)
    assert (settings.host, settings.tls_port, settings.dtls_port) == ("fleet.example", 2, 7443)
    assert settings.store_path(folder) == folder / "fleet.db"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("tls_prot = 1", "unknown key 'tls_prot'; did you mean 'tls_port'"),
        ("[server]\nport = 1", "unknown table [server]: settings stand in no table"),
        ("[[group]]\na = 1", "write them without that line; tables are for policy.toml"),
        ("tls_port = 70000", "tls_port has to be 65535 at most, not 70000"),
        ("tls_port = 'x'", "fleetnet.toml: tls_port has to be a whole number, not 'x'"),
        ("tls_port = -1", "tls_port has to be 0 at least, not -1"),
        ("host = 5", "host has to be text in quotation marks, not 5"),
        ("store = ''", "store must not be empty, not ''"),
        ("commit_interval_ms = 'a'", "commit_interval_ms has to be a number, not 'a'"),
        ("tls_port = ", "cannot be read"),
    ],
)
def test_errors_name_the_key(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(write(tmp_path, text))
    assert words in str(caught.value)


def test_errors_name_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "")
    monkeypatch.setenv("FLEETNET_TLS_PORT", "many")
    with pytest.raises(ConfigError, match="FLEETNET_TLS_PORT"):
        load_settings(tmp_path)
    monkeypatch.delenv("FLEETNET_TLS_PORT")
    monkeypatch.setenv("FLEETNET_TLS_PROT", "1")
    with pytest.raises(ConfigError, match="did you mean FLEETNET_TLS_PORT"):
        load_settings(tmp_path)


def test_a_missing_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fleetnet init"):
        load_settings(tmp_path / "missing")
