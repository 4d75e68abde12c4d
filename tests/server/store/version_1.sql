-- The layout of version 1, as it was released.
PRAGMA page_size=8192;
PRAGMA journal_mode=WAL;
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
CREATE INDEX messages_wide ON messages(device, t1) WHERE t1 - t0 > 600000;
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
WHERE m.kind & 127 = 16 AND m.problem IS NULL;
PRAGMA application_id=1718382196;
PRAGMA user_version=1;
