"""Where the store is: a file (SQLite), or a database of PostgreSQL. The setting `store` says.

    store = "fleet.db"                                        # below the fleet folder
    store = "postgresql://fleetnet_server@db.example/fleet"   # a server of PostgreSQL

A password never stands in the setting: it comes from FOLDER/postgres.password (mode 0600), or
from where every client of PostgreSQL looks (PGPASSFILE, ~/.pgpass).
"""

import ipaddress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from fleetnet_server.errors import ConfigError

SCHEMES = ("postgresql", "postgres")
PASSWORD_FILE = "postgres.password"  # noqa: S105

# What a URL may say behind `?`: how the way to the server is protected, and where it is.
_OPTIONS = ("host", "port", "sslmode", "sslrootcert", "sslcert", "sslkey", "gssencmode", "passfile")


class PostgresPlace(NamedTuple):
    """A database of PostgreSQL.

    Attributes:
        url: without a password, as libpq takes it.
        password_file: whose first line is the password; None: libpq looks for it.
    """

    url: str
    password_file: Path | None = None

    def __str__(self) -> str:
        return self.url

    @property
    def user(self) -> str:
        """Who it is opened as; "": whom libpq takes."""
        return unquote(urlsplit(self.url).username or "")

    @property
    def database(self) -> str:
        """The database's name; "": the user's name."""
        return unquote(urlsplit(self.url).path.removeprefix("/"))

    def as_user(self, name: str, folder: Path | None = None) -> "PostgresPlace":
        """Return the same database for another user.

        His password is in FOLDER/postgres.NAME.password, or where libpq looks.
        """
        parts = urlsplit(self.url)
        host = parts.netloc.rpartition("@")[2]
        url = parts._replace(netloc=f"{quote(name, safe='')}@{host}").geturl()
        file = None if folder is None else folder / f"postgres.{name}.password"
        return PostgresPlace(url, file if file is not None and file.exists() else None)


StorePlace = Path | PostgresPlace


def is_postgres(store: str) -> bool:
    """Say whether the setting `store` names a database of PostgreSQL."""
    return store.partition("://")[0] in SCHEMES


def postgres_place(store: str, folder: Path) -> PostgresPlace:
    """Read the setting `store`.

    The way to another machine is encrypted, and the server's certificate is checked, unless the
    URL says `sslmode` itself: libpq alone would go without both when it is asked to.

    Raises:
        ConfigError: no URL, one with a password, without a database, or with options that are
            not for it.
    """
    try:
        parts = urlsplit(store)
        hosts = parts.netloc.rpartition("@")[2]
    except ValueError as error:
        raise ConfigError(f"store: {error}: {_FORM}") from None
    if parts.password is not None:
        raise ConfigError(
            "store: a password must not stand in a setting: write it to "
            f"FOLDER/{PASSWORD_FILE} (mode 0600), or to ~/.pgpass"
        )
    if not parts.path.strip("/"):
        raise ConfigError(f"store: no database is named: {_FORM}")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for key in options:
        if key not in _OPTIONS:
            raise ConfigError(f"store: unknown option {key!r}: it may have {', '.join(_OPTIONS)}")
    if "sslmode" not in options and not _is_local(options.get("host", hosts)):
        options["sslmode"] = "verify-full"
    query = urlencode(options, safe="/,")
    url = f"postgresql://{parts.netloc}{parts.path}{query and '?' + query}"
    file = folder / PASSWORD_FILE
    return PostgresPlace(url, file if file.exists() else None)


_FORM = "postgresql://[USER@]HOST[:PORT]/DATABASE[?sslmode=...]"


def _is_local(hosts: str) -> bool:
    """Whether every host is this machine: a folder with a socket, or a loopback address."""
    return all(_is_loopback(each) for each in hosts.split(","))


def _is_loopback(host: str) -> bool:
    name = unquote(host)
    if name.startswith("["):
        name = name[1:].partition("]")[0]
    elif not name.startswith("/"):
        name = name.partition(":")[0]
    if not name or name.startswith("/") or name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
