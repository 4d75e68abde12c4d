from fleetnet.varint import take_varint


def assemble(payload):
    size, at = take_varint(payload, 0)
    room = bytearray(size)
    room[: len(payload) - at] = payload[at:]
    return room
