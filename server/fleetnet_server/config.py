"""Settings of the server: FOLDER/fleetnet.toml, overridden by FLEETNET_* variables.

    tls_port = 7443                     # fleetnet.toml
    FLEETNET_TLS_PORT=7443              # the same, and it wins

A misspelt key stops the program: a setting that silently does nothing is worse.
"""

import difflib
import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from fleetnet_server.errors import ConfigError
from fleetnet_server.redaction import shown
from fleetnet_server.store_place import StorePlace, is_postgres, postgres_place

FILE_NAME = "fleetnet.toml"
PREFIX = "FLEETNET_"

# How pydantic's types of errors begin, in words; in braces what it says beside them.
_NO_TABLES = (
    "settings stand in no table, so write them without that line; tables are for policy.toml, "
    "retention.toml and mqtt.toml"
)
_WANTED = {
    "int_": "has to be a whole number",
    "float_": "has to be a number",
    "finite_number": "has to be a finite number",
    "bool_": "has to be true or false",
    "string_too_short": "must not be empty",
    "string_": "has to be text in quotation marks",
    "greater_than_equal": "has to be {ge} at least",
    "greater_than": "has to be above {gt}",
    "less_than_equal": "has to be {le} at most",
    "less_than": "has to be below {lt}",
}


class Settings(BaseSettings):
    """What `fleetnet serve` needs to know. Frozen; made by ``load_settings``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    host: str = Field("localhost", description="name or address that devices connect to")
    bind: str = Field("0.0.0.0", description="address that the server listens on")  # noqa: S104
    tls_port: int = Field(7443, ge=0, le=65535, description="TCP port; 0: any free one")
    dtls_port: int = Field(7443, ge=0, le=65535, description="UDP port; 0: any free one")
    store: str = Field(
        "fleet.db",
        min_length=1,
        description="store file, below the folder; or postgresql://[USER@]HOST[:PORT]/DATABASE",
    )
    node: str = Field(
        "",
        max_length=64,
        pattern=r"^[A-Za-z0-9._-]*$",
        description="of this server, where several have one database; empty: host and process",
    )
    store_patience_s: float = Field(
        3.0, ge=0.5, le=600, description="then devices are sent to the other servers"
    )
    commit_interval_ms: float = Field(
        20.0, ge=0, le=1000, description="least time between two commits"
    )
    commit_rows: int = Field(4096, ge=1, le=100_000, description="most messages in one commit")
    handshake_timeout_s: float = Field(
        10.0, gt=0, le=120, description="a board takes 1 to 3 s for its half of a handshake"
    )
    max_handshakes: int = Field(
        1000, ge=1, description="handshakes under way at once, 60 KB each, at each listener"
    )
    address_handshakes_per_s: float = Field(
        500.0, gt=0, description="of one address: less than half of what a core can do"
    )
    address_handshakes_burst: int = Field(
        5000, ge=1, description="of one address at once: a fleet behind one router comes back"
    )
    device_sessions_per_s: float = Field(
        1.0, gt=0, description="links of one device: its own pauses are at least 0.5 s"
    )
    device_sessions_burst: int = Field(
        60, ge=1, description="links of one device at once: a minute on a link that breaks"
    )
    sessions_per_s: float = Field(
        200.0, gt=0, description="new sessions, all together: a third of a core, data goes on"
    )
    max_sessions: int = Field(
        20_000, ge=1, description="sessions at once, 40 KB each over TLS: 0.8 GB"
    )
    keepalive_s: float = Field(60.0, ge=1, le=86_400, description="what devices are asked for")
    dtls_keepalive_s: float = Field(
        25.0, ge=1, le=86_400, description="over DTLS: routers forget idle UDP after 30 s"
    )
    compact_dtls: bool = Field(
        True, description="keep the keys of a DTLS session instead of OpenSSL's 80 KB"
    )
    enrol_port: int = Field(
        0, ge=0, le=65535, description="TCP port for devices with a claim token; 0: closed"
    )
    device_lifetime_s: float = Field(
        825 * 86_400.0, ge=5, description="of certificates made for devices"
    )
    server_lifetime_s: float = Field(
        825 * 86_400.0, ge=5, description="of the server's own certificate"
    )
    rotations_per_s: float = Field(
        20.0, gt=0, le=1000, description="new identities a second, for all devices together"
    )
    web_bind: str = Field("127.0.0.1", description="address of the HTTP API and the dashboard")
    web_port: int = Field(
        0, ge=0, le=65535, description="TCP port of the HTTP API and the dashboard; 0: closed"
    )
    web_host: str = Field(
        "", description="name by which browsers reach it, where that is not `host`: of a proxy"
    )
    compaction: bool = Field(True, description="move readings into chunks by series and time")
    housekeeping_share: float = Field(
        0.25, ge=0.01, le=1, description="of a core, for compaction, retention and blob quotas"
    )
    max_blob_bytes: int = Field(64 << 20, ge=1024, description="larger blobs are refused")
    workers: int = Field(
        1, ge=1, le=64, description="processes that have devices, see `fleetnet serve --workers`"
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Let the environment win over the file, whose values come as arguments."""
        return env_settings, init_settings

    @property
    def has_store_file(self) -> bool:
        """The store is a file (SQLite), not a database of PostgreSQL."""
        return not is_postgres(self.store)

    def store_place(self, folder: Path) -> StorePlace:
        """Return where the store is. Raises ConfigError: `store` is a URL that is none."""
        if self.has_store_file:
            if "://" in self.store:
                raise ConfigError(
                    f"store: {self.store!r} is no kind of store: write the name of a file, "
                    "or postgresql://[USER@]HOST[:PORT]/DATABASE"
                )
            return folder / self.store
        return postgres_place(self.store, folder)

    def store_path(self, folder: Path, doing: str = "this is") -> Path:
        """Return where the store file is.

        Args:
            doing: what needs a file, for the error: "a backup is".

        Raises:
            ConfigError: the store is a database of PostgreSQL, which has tools of its own.
        """
        if not self.has_store_file:
            raise ConfigError(
                f"{doing} for a store file, and this store is PostgreSQL: use PostgreSQL's own "
                "tools (`pg_dump` and `pg_restore`), and copy the folder"
            )
        return folder / self.store


def load_settings(folder: str | Path) -> Settings:
    """Read FOLDER/fleetnet.toml and the environment.

    Raises:
        ConfigError: no such file, not TOML, an unknown key (named with the nearest known
            one), or a value out of range.
    """
    path = Path(folder) / FILE_NAME
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(
            f"no fleet at {folder}: run `fleetnet init {folder}`, or name the folder with -C"
        ) from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    for key in values:
        if key not in Settings.model_fields:
            if isinstance(values[key], dict | list):
                raise ConfigError(f"{path}: unknown table [{key}]: {_NO_TABLES}")
            raise ConfigError(f"{path}: unknown key {key!r}{_nearest(key, Settings.model_fields)}")
    _check_environment(os.environ)
    try:
        settings = Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error, path)) from None
    settings.store_place(Path(folder))
    return settings


def _check_environment(names: Iterable[str]) -> None:
    """Refuse a misspelt FLEETNET_ variable; those of other programs resemble no key."""
    for name in names:
        key = name.removeprefix(PREFIX).lower()
        if not name.startswith(PREFIX) or key in Settings.model_fields:
            continue
        hint = _nearest(key, Settings.model_fields, PREFIX)
        if hint:
            raise ConfigError(f"environment: unknown variable {name}{hint}")


def _nearest(key: str, known: Iterable[str], prefix: str = "") -> str:
    found = difflib.get_close_matches(key.lower(), list(known), n=1, cutoff=0.7 if prefix else 0.0)
    if not found:
        return ""
    return f"; did you mean {prefix + found[0].upper() if prefix else repr(found[0])}?"


def _explain(error: ValidationError, path: Path) -> str:
    lines = []
    for problem in error.errors():
        key = str(problem["loc"][0])
        variable = PREFIX + key.upper()
        place: Any = variable if variable in os.environ else path
        wanted = _wanted(problem["type"], problem.get("ctx", {})) or problem["msg"]
        lines.append(f"{place}: {key} {wanted}, not {shown(key, problem['input'])!r}")
    return "\n".join(lines)


def _wanted(kind: str, bounds: dict[str, Any]) -> str:
    """Return what pydantic wanted, in words; "" of what no setting has."""
    word = next((text for start, text in _WANTED.items() if kind.startswith(start)), "")
    return word.format(**bounds)
