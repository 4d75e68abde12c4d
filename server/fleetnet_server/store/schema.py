"""The layout of a store file, and how a connection to it is set up.

One row is one message; its body is kept as it was received. Compaction (compaction.py) moves
readings into chunks by series and time later. The view ``readings`` gives single readings of
both to whoever opens the file with any SQLite of 3.38 or newer. From within the server's own
process only apsw may open it: two SQLite libraries in one process drop each other's file locks
(https://sqlite.org/howtocorrupt.html section 2.2.1).
"""

import os
from pathlib import Path

import apsw

from fleetnet_server.errors import StoreError
from fleetnet_server.store.migrations import STEPS
from fleetnet_server.store.trouble import remedy_of, unavailable

SCHEMA_VERSION = STEPS[-1][0]  # in user_version
APPLICATION_ID = 0x666C6E74  # "flnt"; file(1) and wrong files are told apart by it
HALF_COPIED_ID = 0x666C6E63  # "flnc": until store/copying.py is done with it

# Messages that span more than this are found through the index messages_wide, all others
# through messages_time with the lower bound moved back by it: both searches stay short.
WIDE_MS = 600_000

# Twice SQLite's default. One commit touches a page in each index for every device that
# sent something; 8 KiB costs 10 to 20 % less CPU a row than 4 KiB, and 1 KiB 40 % more.
_PAGE_BYTES = 8192
_CACHE_KIB = 65536
_CHECKPOINT_PAGES = 2000  # 16 MiB of WAL
BUSY_TIMEOUT_MS = 2000

_TABLES = f"""
CREATE TABLE devices(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL DEFAULT 'enabled' CHECK (state IN ('enabled', 'disabled')),
    created_ms INTEGER NOT NULL
);
CREATE TABLE certificates(
    serial TEXT PRIMARY KEY,  -- lower-case hexadecimal
    device INTEGER NOT NULL REFERENCES devices(id),
    issued_ms INTEGER NOT NULL,
    not_after_ms INTEGER NOT NULL,
    revoked_ms INTEGER
) WITHOUT ROWID;
CREATE INDEX certificates_device ON certificates(device);
CREATE TABLE epochs(
    id INTEGER PRIMARY KEY,
    device INTEGER NOT NULL REFERENCES devices(id),
    epoch BLOB NOT NULL,
    UNIQUE(device, epoch)
);
CREATE TABLE messages(
    id INTEGER PRIMARY KEY,  -- in order of commit
    device INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    t0 INTEGER,  -- unix ms of the first and last reading; NULL while their boot is undated
    t1 INTEGER,
    received INTEGER NOT NULL,
    problem TEXT,  -- why the body could not be read; NULL: it is good
    body NOT NULL,
    UNIQUE(epoch, stream, seq)
);
CREATE INDEX messages_time ON messages(device, t0);
CREATE INDEX messages_wide ON messages(device, t1) WHERE t1 - t0 > {WIDE_MS};
CREATE INDEX messages_undated ON messages(device) WHERE t0 IS NULL;
CREATE TABLE boots(
    device INTEGER NOT NULL,
    boot INTEGER NOT NULL,
    offset_ms INTEGER NOT NULL,  -- unix ms minus uptime ms
    PRIMARY KEY(device, boot)
) WITHOUT ROWID;
CREATE TABLE gaps(
    device INTEGER NOT NULL,
    epoch INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    noted_ms INTEGER NOT NULL,
    PRIMARY KEY(epoch, stream, first)
) WITHOUT ROWID;
"""

# A boot's offset may be refined later; a message keeps the one it was dated with, which is
# t0 less the first uptime in its body. Readings that are in a chunk are taken from there.
_VIEW = """
CREATE VIEW readings AS
SELECT m.id AS message,
       d.name AS device,
       json_extract(m.body, '$[2][' || json_extract(r.value, '$[0]') || ']') AS channel,
       json_extract(r.value, '$[1]') + CASE
           WHEN json_extract(m.body, '$[1]') = 0 THEN json_extract(m.body, '$[0]')
           ELSE m.t0 - (SELECT min(json_extract(s.value, '$[1]'))
                        FROM json_each(m.body, '$[3]') AS s)
       END AS unix_ms,
       json_extract(r.value, '$[2]') AS value,
       m.seq AS seq,
       m.stream AS stream,
       lower(hex(e.epoch)) AS epoch
FROM messages AS m
JOIN devices AS d ON d.id = m.device
JOIN epochs AS e ON e.id = m.epoch
JOIN json_each(m.body, '$[3]') AS r
WHERE m.kind & 127 = 16 AND m.problem IS NULL AND d.state != 'quarantined'
  AND (m.id > (SELECT CASE WHEN m.device <= c.device THEN c.last ELSE c.before END
               FROM compacting AS c)
       OR EXISTS (SELECT 1 FROM held AS h WHERE h.id = m.id))
UNION ALL
SELECT NULL,
       d.name,
       s.channel,
       c.t0 + CASE WHEN c.times IS NULL THEN v.key * c.step
                   ELSE json_extract(c.times, '$[' || v.key || ']') END,
       v.value,
       (SELECT json_extract(r.value, '$[1]')
               + (v.key - json_extract(r.value, '$[0]')) / json_extract(r.value, '$[2]')
        FROM json_each(c.runs) AS r WHERE json_extract(r.value, '$[0]') <= v.key
        ORDER BY r.key DESC LIMIT 1),
       c.stream,
       lower(hex(e.epoch))
FROM series AS s
JOIN devices AS d ON d.id = s.device
JOIN chunks AS c ON c.series = s.id
JOIN epochs AS e ON e.id = c.epoch
JOIN json_each(c.vals) AS v
WHERE d.state != 'quarantined';
"""


def open_writable(path: str | Path) -> apsw.Connection:
    """Open a store file for reading and writing, creating it when it is missing.

    WAL with synchronous=FULL: every commit is on the disk before it returns. A store of an
    older version is brought to this one in one transaction.

    Raises:
        StoreError: another program's file, or a store of a newer version.
        apsw.Error: the file cannot be opened.
    """
    _create(path)
    # The prepared inserts are long texts; the cache must hold them all.
    connection = apsw.Connection(str(path), statementcachesize=64)
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        connection.execute(f"PRAGMA page_size={_PAGE_BYTES}")
        version = _check(connection, path)
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}").fetchall()
        if version < SCHEMA_VERSION:
            _upgrade(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def make_tables(connection: apsw.Connection) -> None:
    """Make the tables of this version in an empty database."""
    _upgrade(connection)


def _create(path: str | Path) -> None:
    """Make a new file its owner's alone, whatever the umask; SQLite gives -wal and -shm its mode.

    A file that exists is not touched: closing it would drop the locks that this process has on it.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError:
        pass  # it is there; or it cannot be made, which SQLite says better


def check_there(path: Path) -> None:
    """Raise StoreError when no store is at ``path``: `fleetnet init` made it, once and for all.

    A new one, in which no device is registered, would hide that the old one is lost.
    """
    if not path.is_file():
        what = f"no store at {path}"
    elif not path.stat().st_size:
        what = f"{path} is an empty file, no store"
    else:
        return
    raise StoreError(
        f"{what}: restore a backup into a new folder, `fleetnet -C NEW store restore FILE`, "
        "or correct -C, or `store` in fleetnet.toml"
    )


def open_readable(path: str | Path) -> apsw.Connection:
    """Open an existing store file for reading only; works beside a running server.

    Raises:
        StoreError: no such file, another program's file, or an unknown version.
        StoreUnavailable: this user may not, the disk fails, or it is damaged.
    """
    check_there(Path(path))
    try:
        connection = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
    except apsw.Error as error:
        raise unavailable(path, "opened", error) from error
    try:
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        if _check(connection, path) == 0:
            raise StoreError(f"{path} has no tables: restore it from a backup")
    except apsw.Error as error:
        connection.close()
        raise unavailable(path, "opened", error) from error
    except BaseException:
        connection.close()
        raise
    return connection


def stored_version(path: str | Path) -> int:
    """Return the version of a closed store file's layout, 0: there is none."""
    try:
        with open(path, "rb") as file:
            file.seek(60)  # user_version: https://sqlite.org/fileformat.html section 1.3.16
            return int.from_bytes(file.read(4), "big")
    except OSError:
        return 0


def _check(connection: apsw.Connection, path: str | Path) -> int:
    """Return the schema version, 0 for an empty file."""
    try:
        version = int(connection.pragma("user_version"))
        application = int(connection.pragma("application_id"))
        tables = connection.execute("SELECT count(*) FROM sqlite_schema").get
    except apsw.NotADBError as error:
        remedy = remedy_of(error)
        raise StoreError(f"{path} is no SQLite file, or damaged: {remedy}") from error
    if tables and application == HALF_COPIED_ID:
        raise StoreError(
            f"{path} is a copy that is not complete: run `fleetnet store copy` again"
        )
    if tables and application != APPLICATION_ID:
        raise StoreError(f"{path} is another program's SQLite file: name another store")
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{path} has layout {version}, this fleetnet knows up to {SCHEMA_VERSION}: "
            "install the newer fleetnet that wrote it"
        )
    return version


def _upgrade(connection: apsw.Connection) -> None:
    """Make the tables of a new file, then what each later version adds; all or nothing."""
    # Two programs may open a file at once: the second finds the work done.
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = int(connection.pragma("user_version"))
        if version == 0:
            connection.execute(_TABLES)
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        if version < SCHEMA_VERSION:
            # No table that a view names can be made anew under it.
            connection.execute("DROP VIEW IF EXISTS readings")
            for number, statements in STEPS:
                if version < number:
                    connection.execute(statements)
            connection.execute(_VIEW)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
