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

STEPS: tuple[tuple[int, str], ...] = ((2, _COMMANDS + _BLOBS),)
