def decode(payload):
    assert len(payload) >= 4
    return payload[0]
