"""Messages in PostgreSQL: the rows as they came, and what tells a new one from a copy.

``streams.last`` is the watermark of a stream. Numbers do not always come in order: a sensor may
leave a hub that still holds messages of it, and a gap may be noted before what was sent ahead of
it. So the numbers that are missing below ``last`` are ``holes``: a message at or below ``last`` is
a duplicate unless it lies in one. What was noted as a gap is no hole.

``messages`` is partitioned by the day of arrival (UTC), with a DEFAULT partition for what comes
while nobody has made its day. Readers in order of commit take rows with
``xid < pg_snapshot_xmin(pg_current_snapshot())`` by (xid, id): nothing commits behind them.

``commits`` has the random number of each node's last commit: a node that lost the answer of one
finds there whether it happened. The number of a transaction cannot tell that: what a server had
not written when it was killed it gives again to others.

``body`` is bytes always: UTF-8 for JSON. ``streams.received`` is when the newest message came,
unix ms. ``dropped`` is one row: the highest (xid, id) that followers and bridges can no longer
read, raised in the transaction that takes rows away. ``messages.boot`` is that of a message that
came without a date; ``dating`` has the boots whose messages wait for more than one commit could
date, with the offset (ms) to date them with, and the id up to which it is done.

The functions run with the owner's rights, so that a server without DDL can make and drop partitions
of these two tables, and of nothing else; grant EXECUTE to the server's role.
"""

DAY_MS = 86_400_000

# Readers of JSON bodies, events and logs of a device by time; what waits for a date; the feed.
_TABLES = """
CREATE TABLE streams(
    epoch BIGINT NOT NULL,
    stream INTEGER NOT NULL,
    last BIGINT NOT NULL,
    received BIGINT NOT NULL DEFAULT 0,
    PRIMARY KEY(epoch, stream)
) WITH (fillfactor = 70);
CREATE TABLE holes(
    epoch BIGINT NOT NULL,
    stream INTEGER NOT NULL,
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    PRIMARY KEY(epoch, stream, first)
);
CREATE TABLE messages(
    id BIGINT GENERATED ALWAYS AS IDENTITY,
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    device BIGINT NOT NULL,
    epoch BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    t0 BIGINT,
    t1 BIGINT,
    received BIGINT NOT NULL,
    stream INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    boot BIGINT,
    problem TEXT,
    body BYTEA NOT NULL
) PARTITION BY RANGE (received);
CREATE INDEX messages_order ON messages(xid, id);
CREATE INDEX messages_undated ON messages(device, boot, id) WHERE t0 IS NULL;
CREATE INDEX messages_of_device ON messages(device, t0, id) WHERE kind & 127 <> 16;
CREATE INDEX messages_other ON messages(id) WHERE kind & 127 <> 16;
CREATE INDEX messages_unread ON messages(id) WHERE problem IS NOT NULL;
CREATE TABLE messages_default PARTITION OF messages DEFAULT;
CREATE TABLE dating(
    device BIGINT NOT NULL,
    boot BIGINT NOT NULL,
    offset_ms BIGINT NOT NULL,
    behind BIGINT NOT NULL,
    PRIMARY KEY(device, boot)
);
CREATE TABLE commits(
    node TEXT COLLATE "C" PRIMARY KEY,
    attempt BIGINT NOT NULL
) WITH (fillfactor = 50);
CREATE TABLE dropped(
    one INTEGER PRIMARY KEY CHECK (one = 1),
    xid xid8 NOT NULL,
    id BIGINT NOT NULL
);
INSERT INTO dropped VALUES(1, '0', 0);
"""

# A lock that keeps everybody out is not waited for long: every commit queues behind who waits for
# it, and an answer that somebody reads slowly (`fleetnet query | less`) has its tables for minutes.
# Who gets none tries again later.

# Rows that came for a range while it had no partition lie in DEFAULT, and move when it is made:
# PostgreSQL refuses the partition otherwise. Above `most` rows the range stays there: FALSE. They
# are counted before DEFAULT is locked, as a range that is refused is tried again and again.
_MAKE = """
CREATE FUNCTION fleetnet_make_partition(parent TEXT, first BIGINT, past BIGINT, most BIGINT)
RETURNS BOOLEAN LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '1s' AS $body$
DECLARE
    name TEXT := parent || '_' || first;
    clock TEXT := CASE parent WHEN 'messages' THEN 'received' WHEN 'readings' THEN 't' END;
    waiting BIGINT;
    counting TEXT;
BEGIN
    IF clock IS NULL OR past <= first THEN
        RAISE EXCEPTION 'no table of fleetnet with partitions: %', parent;
    END IF;
    IF to_regclass(name) IS NOT NULL THEN
        RETURN FALSE;
    END IF;
    counting := format(
        'SELECT count(*) FROM (SELECT 1 FROM %I WHERE %I >= $1 AND %I < $2 LIMIT $3) q',
        parent || '_default', clock, clock);
    EXECUTE counting INTO waiting USING first, past, most + 1;
    IF waiting > most THEN
        RETURN FALSE;
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent || '_default');
    EXECUTE counting INTO waiting USING first, past, most + 1;
    IF waiting > most THEN
        RETURN FALSE;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING DEFAULTS INCLUDING CONSTRAINTS)',
        name, parent);
    EXECUTE format('WITH moved AS (DELETE FROM %I WHERE %I >= $1 AND %I < $2 RETURNING *)'
        ' INSERT INTO %I SELECT * FROM moved', parent || '_default', clock, clock, name)
        USING first, past;
    EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%s) TO (%s)',
        parent, name, first, past);
    RETURN TRUE;
END $body$;
"""

# A day whose readings are all in `readings`: what else is in it goes to DEFAULT, and the table is
# dropped. -1: more than `most` rows would have to move.
_DROP = """
CREATE FUNCTION fleetnet_retire_messages(first BIGINT, most BIGINT)
RETURNS BIGINT LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '1s' AS $body$
DECLARE
    name TEXT := 'messages_' || first;
    kept BIGINT;
BEGIN
    IF to_regclass(name) IS NULL THEN
        RETURN 0;
    END IF;
    EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM %I WHERE kind & 127 <> 16'
        ' OR problem IS NOT NULL OR t0 IS NULL LIMIT $1) q', name) INTO kept USING most + 1;
    IF kept > most THEN
        RETURN -1;
    END IF;
    EXECUTE format('UPDATE dropped AS d SET xid = g.xid, id = g.id FROM'
        ' (SELECT xid, id FROM %I ORDER BY xid DESC, id DESC LIMIT 1) AS g'
        ' WHERE (g.xid, g.id) > (d.xid, d.id)', name);
    EXECUTE format('ALTER TABLE messages DETACH PARTITION %I', name);
    EXECUTE format('INSERT INTO messages OVERRIDING SYSTEM VALUE SELECT * FROM %I'
        ' WHERE kind & 127 <> 16 OR problem IS NOT NULL OR t0 IS NULL', name);
    EXECUTE format('DROP TABLE %I', name);
    RETURN kept;
END $body$;
CREATE FUNCTION fleetnet_drop_partition(parent TEXT, first BIGINT, must_be_empty BOOLEAN)
RETURNS BOOLEAN LANGUAGE plpgsql SECURITY DEFINER
SET search_path = public, pg_temp SET lock_timeout = '1s' AS $body$
DECLARE
    name TEXT := parent || '_' || first;
    is_used BOOLEAN := FALSE;
BEGIN
    IF parent NOT IN ('messages', 'readings') THEN
        RAISE EXCEPTION 'no table of fleetnet with partitions: %', parent;
    END IF;
    IF to_regclass(name) IS NULL THEN
        RETURN FALSE;
    END IF;
    EXECUTE format('LOCK TABLE %I IN ACCESS EXCLUSIVE MODE', parent);
    IF must_be_empty THEN
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %I)', name) INTO is_used;
    END IF;
    IF is_used THEN
        RETURN FALSE;
    END IF;
    IF parent = 'messages' THEN
        EXECUTE format('UPDATE dropped AS d SET xid = g.xid, id = g.id FROM'
            ' (SELECT xid, id FROM %I ORDER BY xid DESC, id DESC LIMIT 1) AS g'
            ' WHERE (g.xid, g.id) > (d.xid, d.id)', name);
    END IF;
    EXECUTE format('DROP TABLE %I', name);
    RETURN TRUE;
END $body$;
"""

_RIGHTS = """
REVOKE ALL ON FUNCTION fleetnet_make_partition(TEXT, BIGINT, BIGINT, BIGINT) FROM PUBLIC;
REVOKE ALL ON FUNCTION fleetnet_retire_messages(BIGINT, BIGINT) FROM PUBLIC;
REVOKE ALL ON FUNCTION fleetnet_drop_partition(TEXT, BIGINT, BOOLEAN) FROM PUBLIC;
"""

MESSAGES = _TABLES + _MAKE + _DROP + _RIGHTS
