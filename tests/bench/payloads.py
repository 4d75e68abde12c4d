"""Bodies of READINGS as the targets define them: each value is 100 B of JSON text."""

import json

from fleetnet.readings import ReadingBatch

VALUE = {"v": "x" * 92}


def body(readings: int, index: int = 0) -> bytes:
    """Return a body with ``readings`` readings of one channel, 100 ms apart."""
    assert len(json.dumps(VALUE, separators=(",", ":"))) == 100
    batch = ReadingBatch(8192, readings)
    for number in range(readings):
        assert batch.add("temperature", VALUE, 1_700_000_000_000 + index + 100 * number)
    return batch.to_payload()
