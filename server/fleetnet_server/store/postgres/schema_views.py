"""What a person or a program with SQL reads, Grafana for one: readings with their names."""

# `value` is the JSON text of what the device sent, `number` what of it can be drawn. The columns
# are those of SQLite's view `readings` (store/schema.py). Of a large integer `number` is the
# nearest; `value` '' in the table is an integer that `number` has as it is.
VIEWS = """
CREATE VIEW device_readings AS
SELECT d.name AS device,
       s.channel AS channel,
       to_timestamp(r.t / 1000.0) AS at,
       r.t AS unix_ms,
       r.number AS number,
       CASE WHEN r.value <> '' THEN r.value
            WHEN r.value = '' THEN r.number::NUMERIC::TEXT
            ELSE r.number::TEXT
       END AS value,
       r.seq AS seq,
       r.stream AS stream,
       encode(e.epoch, 'hex') AS epoch
FROM readings AS r
JOIN series AS s ON s.id = r.series
JOIN devices AS d ON d.id = s.device
JOIN epochs AS e ON e.id = r.epoch
WHERE d.state <> 'quarantined';
"""
