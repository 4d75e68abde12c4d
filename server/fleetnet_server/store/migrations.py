"""What each version of the layout adds to the one before, in order.

A new store gets version 1 (schema.py) and then every step, so that there is one text for
each table. A step is never edited once it was released: a change is a further step.
"""

# Commands and configurations of devices. A command whose `ended_ms` is NULL is open: without
# `sent_boot` it was never handed to its device, with it the boot is known that may have begun
# it. `number` and `edit` grow with every commit, so that a look for news is one seek.
_COMMANDS = """
CREATE TABLE commands(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,  -- on the wire
    device INTEGER NOT NULL REFERENCES devices(id),
    name TEXT NOT NULL,
    args TEXT NOT NULL,  -- JSON, object or list
    state TEXT NOT NULL DEFAULT 'queued'
        CHECK (state IN ('queued', 'sent', 'ok', 'error', 'unknown', 'expired', 'lost')),
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,  -- not begun after this
    sent_boot INTEGER,  -- boot of the device that got it first
    ended_ms INTEGER,
    result TEXT  -- JSON: the value, or [type, message] of an error
);
CREATE INDEX commands_unsent ON commands(device, number)
    WHERE ended_ms IS NULL AND sent_boot IS NULL;
CREATE INDEX commands_unanswered ON commands(device, number)
    WHERE ended_ms IS NULL AND sent_boot IS NOT NULL;
CREATE INDEX commands_device ON commands(device, number);
CREATE TABLE configs(
    device INTEGER PRIMARY KEY REFERENCES devices(id),
    edit INTEGER NOT NULL UNIQUE,  -- grows over all devices
    version INTEGER NOT NULL,  -- of this device's document: 1, 2, 3, ...
    document TEXT NOT NULL,  -- JSON object
    set_ms INTEGER NOT NULL,
    state_version INTEGER,  -- the version that the device last spoke of
    state TEXT CHECK (state IN ('applied', 'rejected')),
    reported TEXT,  -- JSON: what the device reports, or why it rejected
    state_ms INTEGER
);
"""

# Blobs of devices. `number` is the device's own; content is below FOLDER/blobs.
_BLOBS = """
CREATE TABLE blobs(
    id INTEGER PRIMARY KEY,
    device INTEGER NOT NULL REFERENCES devices(id),
    number INTEGER NOT NULL,
    name TEXT NOT NULL,
    content_format INTEGER NOT NULL,  -- IANA CoAP
    size INTEGER NOT NULL,
    sha256 TEXT NOT NULL,  -- lower-case hexadecimal
    t_ms INTEGER,  -- unix ms; NULL: the device did not know, nor does the server
    received_ms INTEGER NOT NULL,
    path TEXT NOT NULL,
    UNIQUE(device, number, sha256)
);
"""

# Identities. The tables devices and certificates are made anew, as SQLite cannot change a CHECK;
# `id` stays what messages refer to. A removed device keeps its row and its readings.
_IDENTITY = """
CREATE TABLE devices_3(
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL DEFAULT 'enabled'
        CHECK (state IN ('enabled', 'disabled', 'quarantined', 'removed')),
    created_ms INTEGER NOT NULL,
    grp TEXT NOT NULL DEFAULT 'default',
    labels TEXT NOT NULL DEFAULT '{}'  -- JSON object of text
);
INSERT INTO devices_3(id, name, state, created_ms) SELECT id, name, state, created_ms FROM devices;
DROP TABLE devices;
ALTER TABLE devices_3 RENAME TO devices;
ALTER TABLE certificates ADD COLUMN reason TEXT;  -- of the revocation
ALTER TABLE certificates ADD COLUMN key_made TEXT NOT NULL DEFAULT 'server'
    CHECK (key_made IN ('server', 'device'));
ALTER TABLE certificates ADD COLUMN generation INTEGER NOT NULL DEFAULT 1;  -- of the CA
CREATE TABLE identities(
    device INTEGER NOT NULL REFERENCES devices(id),
    number INTEGER NOT NULL,  -- 1, 2, 3, ...; 0 is the bundle as it was made
    serial TEXT,  -- of the certificate; NULL: a CSR is awaited
    marks TEXT NOT NULL,  -- Authority.marks: which anchors went with it
    pins TEXT NOT NULL,  -- hexadecimal, separated by blanks
    state TEXT NOT NULL CHECK (state IN ('offered', 'working', 'retired', 'failed')),
    reason TEXT,
    tries INTEGER NOT NULL DEFAULT 0,
    offered_ms INTEGER NOT NULL,
    ended_ms INTEGER,  -- worked, retired or failed last
    PRIMARY KEY(device, number)
) WITHOUT ROWID;
CREATE TABLE renewals(
    device INTEGER PRIMARY KEY REFERENCES devices(id),
    asked_ms INTEGER NOT NULL
);
CREATE TABLE psks(
    identity TEXT PRIMARY KEY,  -- NAME.NUMBER
    device INTEGER NOT NULL REFERENCES devices(id),
    key BLOB NOT NULL,  -- encrypted under FOLDER/secret.key
    created_ms INTEGER NOT NULL,
    used_ms INTEGER,
    enrol INTEGER NOT NULL DEFAULT 0  -- good for a first certificate only
) WITHOUT ROWID;
CREATE INDEX psks_device ON psks(device);
CREATE TABLE claims(
    device INTEGER PRIMARY KEY REFERENCES devices(id),
    token TEXT NOT NULL UNIQUE,  -- its SHA-256, hexadecimal
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER NOT NULL,
    public_key TEXT,  -- SHA-256 of the first key that came with it
    closed_ms INTEGER
);
CREATE TABLE audit(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    at_ms INTEGER NOT NULL,
    actor TEXT NOT NULL,  -- "cli:USER", "server", "device:NAME", an address
    action TEXT NOT NULL,
    device TEXT,
    detail TEXT NOT NULL DEFAULT '{}'  -- JSON object
);
CREATE INDEX audit_device ON audit(device, id);
CREATE TRIGGER audit_keeps BEFORE UPDATE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
CREATE TRIGGER audit_stays BEFORE DELETE ON audit BEGIN
    SELECT RAISE(ABORT, 'the audit log is append-only');
END;
ALTER TABLE commands ADD COLUMN issuer TEXT NOT NULL DEFAULT '';
"""

# What a service needs: tokens of the HTTP API.
_SERVICE = """
CREATE TABLE tokens(
    name TEXT PRIMARY KEY,
    token TEXT NOT NULL UNIQUE,  -- its SHA-256, hexadecimal
    scopes TEXT NOT NULL,  -- separated by blanks
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,  -- NULL: never
    used_ms INTEGER  -- last, to the minute
) WITHOUT ROWID;
"""

# Readings by series and time (docs/store.md). `compacting` is one row: readings of messages
# up to `before`, and up to `last` of devices up to `device`, are in chunks; rows are removed up
# to `removed`. `held` are messages among them that still wait for a date: their rows count.
_HISTORY = """
CREATE TABLE series(
    id INTEGER PRIMARY KEY,
    device INTEGER NOT NULL REFERENCES devices(id),
    channel TEXT NOT NULL,
    spans INTEGER NOT NULL DEFAULT 0,  -- bit n: it has had chunks of span n
    UNIQUE(device, channel)
);
CREATE TABLE chunks(
    series INTEGER NOT NULL,
    span INTEGER NOT NULL,  -- t1 - t0 is at most 4096 * 16**span ms
    t0 INTEGER NOT NULL,  -- unix ms of the first and last reading
    epoch INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,  -- of the first reading: its message, and its place in there
    place INTEGER NOT NULL,
    t1 INTEGER NOT NULL,
    n INTEGER NOT NULL,
    step INTEGER,  -- ms between readings; NULL: see times
    times TEXT,  -- JSON: ms behind t0 of each reading
    vals TEXT NOT NULL,  -- JSON: the values as they were received
    runs TEXT NOT NULL,  -- JSON: [first, seq, per, place, stride] each
    PRIMARY KEY(series, span, t0, epoch, stream, seq, place)
) WITHOUT ROWID;
CREATE TABLE known(  -- messages that were stored, whether or not they still have a row
    epoch INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    last INTEGER NOT NULL,
    first INTEGER NOT NULL,
    received INTEGER NOT NULL,  -- unix ms, of the last one
    PRIMARY KEY(epoch, stream, last)
) WITHOUT ROWID;
CREATE TABLE held(id INTEGER PRIMARY KEY);
CREATE TABLE compacting(
    one INTEGER PRIMARY KEY CHECK (one = 1),
    before INTEGER NOT NULL,
    last INTEGER NOT NULL,
    device INTEGER NOT NULL,
    removed INTEGER NOT NULL
);
INSERT INTO compacting VALUES(1, 0, 0, 0, 0);
CREATE TABLE rollups(
    series INTEGER NOT NULL,
    step INTEGER NOT NULL,  -- ms: 60000 or 3600000
    t INTEGER NOT NULL,  -- unix ms, a multiple of step
    n INTEGER NOT NULL,  -- numbers
    other INTEGER NOT NULL,  -- values that are no numbers
    low REAL,
    high REAL,
    total REAL NOT NULL,
    PRIMARY KEY(series, step, t)
) WITHOUT ROWID;
CREATE TABLE restores(  -- from a backup (restore.py); times are unix ms
    at_ms INTEGER PRIMARY KEY,
    backup_ms INTEGER NOT NULL,
    config_base INTEGER NOT NULL  -- versions of configurations are above it
);
"""

# Quotas: the blobs of a device in order of arrival, the blobs of one content.
_QUOTAS = """
CREATE INDEX blobs_device ON blobs(device, id, size);
CREATE INDEX blobs_content ON blobs(sha256, size);
"""

# Places of bridges in the messages: what another system (MQTT) has of them.
_BRIDGES = """
CREATE TABLE bridges(
    name TEXT PRIMARY KEY,
    message INTEGER NOT NULL,  -- the last one that it has
    moved_ms INTEGER NOT NULL,  -- unix ms
    until_ms INTEGER NOT NULL,  -- until then compaction leaves the rows of what it lacks
    sent INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
"""

# Hubs: whom each may speak for; and up to where what its streams carried is stored.
_HUBS = """
CREATE TABLE hubs(
    device INTEGER NOT NULL REFERENCES devices(id),
    hub INTEGER NOT NULL REFERENCES devices(id),
    assigned_ms INTEGER NOT NULL,
    came_ms INTEGER,  -- last, through this hub
    PRIMARY KEY(device, hub)
) WITHOUT ROWID;
CREATE TABLE carried(
    epoch INTEGER NOT NULL,
    stream INTEGER NOT NULL,
    last INTEGER NOT NULL,
    PRIMARY KEY(epoch, stream)
) WITHOUT ROWID;
"""

STEPS: tuple[tuple[int, str], ...] = (
    (2, _COMMANDS + _BLOBS),
    (3, _IDENTITY),
    (4, _SERVICE + _HISTORY + _QUOTAS),
    (5, _BRIDGES + _HUBS),
)
