"""Sessions of devices: from an authenticated link to durable, acknowledged messages."""
