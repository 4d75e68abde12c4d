"""What several nodes at one database know of each other, and how they hear of changes.

``leases`` says at which node a device is; ``fence`` grows each time it begins a session, and a
node whose fence is not the newest stores nothing more of it. ``nodes`` are the servers that run;
times are the database's clock, unix ms. ``changes`` has every change of the tables that nodes keep
a copy of (replica.py), in order of commit; ``feed.pruned`` is the highest number that is gone.

Channels: fleetnet_changes (no payload) and fleetnet_leases ("device fence node", when a device
moved from one node to another).
"""

from fleetnet_server.store.postgres.schema_control import CONTROL_TABLES

# `changed` of nobody: a change of this size is sent to all nodes for nothing.
UNHEARD = ("restores",)
REPLICATED = tuple(table for table in CONTROL_TABLES if table not in UNHEARD)

CHANGES_CHANNEL = "fleetnet_changes"
LEASES_CHANNEL = "fleetnet_leases"

# The number of the last change that the transaction under way has made, 0 for none.
LAST_CHANGE = "SELECT coalesce(nullif(current_setting('fleetnet.change', true), ''), '0')::BIGINT"

# The database's clock, unix ms.
NOW_MS = "(extract(epoch FROM clock_timestamp()) * 1000)::BIGINT"

_LEASES = f"""
CREATE TABLE leases(
    device BIGINT PRIMARY KEY,
    fence BIGINT NOT NULL,
    node TEXT COLLATE "C" NOT NULL DEFAULT '',  -- '': it has no session
    since_ms BIGINT NOT NULL,
    link TEXT NOT NULL DEFAULT '',
    address TEXT NOT NULL DEFAULT '',
    software TEXT NOT NULL DEFAULT ''
) WITH (fillfactor = 70);
CREATE INDEX leases_node ON leases(node);
CREATE FUNCTION fleetnet_tell_lease() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{LEASES_CHANNEL}', NEW.device || ' ' || NEW.fence || ' ' || NEW.node);
    RETURN NULL;
END $$;
CREATE TRIGGER lease_moved AFTER UPDATE ON leases FOR EACH ROW
    WHEN (OLD.node <> '' AND NEW.node <> '' AND OLD.node <> NEW.node)
    EXECUTE FUNCTION fleetnet_tell_lease();
"""

_NODES = """
CREATE TABLE nodes(
    name TEXT COLLATE "C" PRIMARY KEY,
    run TEXT NOT NULL,  -- of one start of its program
    started_ms BIGINT NOT NULL,
    seen_ms BIGINT NOT NULL,
    version TEXT NOT NULL,
    sessions BIGINT NOT NULL,
    url TEXT NOT NULL DEFAULT ''  -- of its HTTP API
);
"""

_CHANGES = f"""
CREATE TABLE changes(
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at_ms BIGINT NOT NULL,
    tbl TEXT NOT NULL,
    op TEXT NOT NULL,  -- U: the row is so now; D: the row with this key is gone
    changed JSONB NOT NULL
);
CREATE INDEX changes_at ON changes(at_ms);
CREATE TABLE feed(
    one INTEGER PRIMARY KEY CHECK (one = 1),
    pruned BIGINT NOT NULL
);
INSERT INTO feed VALUES(1, 0);
CREATE FUNCTION fleetnet_note_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    number BIGINT;
BEGIN
    INSERT INTO changes(at_ms, tbl, op, changed) VALUES(
        {NOW_MS}, TG_TABLE_NAME,
        CASE TG_OP WHEN 'DELETE' THEN 'D' ELSE 'U' END,
        CASE TG_OP WHEN 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END
    ) RETURNING id INTO number;
    PERFORM set_config('fleetnet.change', number::TEXT, true);
    RETURN NULL;
END $$;
CREATE FUNCTION fleetnet_tell_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('{CHANGES_CHANNEL}', '');
    RETURN NULL;
END $$;
CREATE TRIGGER change_told AFTER INSERT ON changes
    FOR EACH STATEMENT EXECUTE FUNCTION fleetnet_tell_change();
"""

# The numbers are in order of commit, as whoever changes these tables holds the lock FEED by then.
_FED = "".join(
    f"CREATE TRIGGER z_{table}_is_fed AFTER INSERT OR UPDATE OR DELETE ON {table}\n"
    "    FOR EACH ROW EXECUTE FUNCTION fleetnet_note_change();\n"
    for table in REPLICATED
)

CLUSTER = _LEASES + _NODES + _CHANGES + _FED
