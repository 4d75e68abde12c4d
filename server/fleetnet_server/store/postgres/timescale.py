"""Timescale: where the extension is there, ``readings`` is a hypertable.

NOT RUN: the extension was not installable where this was written. The statements are those of its
documentation (create_hypertable, drop_chunks, TimescaleDB 2); the plain half of the same block is
what the tests run. Nothing else depends on it: columns, index and queries are the same.
"""

# In a transaction, as the owner. `t` is unix ms, so a chunk of a week is a number.
HYPERTABLE = """
DO $body$
DECLARE
    columns TEXT := 't BIGINT NOT NULL, epoch BIGINT NOT NULL, seq BIGINT NOT NULL,'
        ' number DOUBLE PRECISION, series INTEGER NOT NULL, stream SMALLINT NOT NULL,'
        ' place SMALLINT NOT NULL, value TEXT';
BEGIN
    IF EXISTS (SELECT 1 FROM pg_available_extensions WHERE name = 'timescaledb') THEN
        CREATE EXTENSION IF NOT EXISTS timescaledb;
        EXECUTE 'CREATE TABLE readings(' || columns || ')';
        EXECUTE 'SELECT create_hypertable(''readings'', ''t'', chunk_time_interval =>'
            ' 604800000::BIGINT, create_default_indexes => FALSE)';
    ELSE
        EXECUTE 'CREATE TABLE readings(' || columns || ') PARTITION BY RANGE (t)';
        CREATE TABLE readings_default PARTITION OF readings DEFAULT;
        -- Who makes a partition counts and moves what lies here of its time.
        CREATE INDEX readings_default_time ON readings_default(t);
    END IF;
    CREATE INDEX readings_time ON readings(series, t);
    CREATE INDEX readings_window ON readings USING brin (t) WITH (autosummarize = on);
END $body$;
"""

# Of the table as it is, not of the server: the extension may come later.
IS_HYPERTABLE = (
    "SELECT NOT EXISTS (SELECT 1 FROM pg_partitioned_table"
    " WHERE partrelid = to_regclass('readings'))"
)
# Chunks that end before a time (unix ms), with all that is in them.
DROP_CHUNKS = "SELECT count(*) FROM drop_chunks('readings', older_than => %s::BIGINT)"
