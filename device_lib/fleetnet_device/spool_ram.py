"""What the spool asks about the part of the outbox that is in RAM."""

from fleetnet_device.outbox import Entry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from fleetnet.session import Session
    from fleetnet_device.outbox import Outbox
    from fleetnet_device.spool_segment import Segment


def hand(outbox: "Outbox", stream: int, seq: int, size: int, readings: int) -> Entry:
    """File a message that went from the flash to the session."""
    entry = Entry(stream, 0, None, size, readings)
    entry.seq = seq
    outbox.hold(entry)
    outbox.size += size
    return entry


def may_hold(outbox: "Outbox", size: int, quarters: int) -> bool:
    """Say whether the session may hold ``size`` bytes more, of its quarters of RAM.

    The rest is for messages that come together to a block. One message it may always hold.
    """
    return not outbox.handed or (
        (outbox.held + size) * 4 <= outbox.max_bytes * quarters
        and len(outbox.handed) * 4 < outbox.max_messages * quarters
    )


def only_in_ram(outbox: "Outbox") -> "Iterator[Entry]":
    """Yield what the flash does not have, in the order in which it must get it."""
    for entry in outbox.handed:
        if entry.segment is None:
            yield entry
    for entry in outbox.waiting:
        yield entry


def oldest(outbox: "Outbox") -> "Entry | None":
    """Return the first of ``only_in_ram``."""
    for entry in only_in_ram(outbox):
        return entry
    return None


def is_filling(outbox: "Outbox", block: "int | None") -> bool:
    """Say whether messages that the flash does not have fill half of RAM, or ``block`` bytes."""
    limit = outbox.max_bytes >> 1
    if block is not None:
        limit = min(block, limit >> 1)
    size = count = 0
    for entry in only_in_ram(outbox):
        size += entry.size
        count += 1
    return size >= limit or count * 2 >= outbox.max_messages


def payload_of(session: "Session", entry: Entry, frames: int) -> bytes:
    """Return what is left of a message; a message that is handed over is in the session."""
    if entry.payload is not None:
        return entry.payload
    first = entry.seq - frames
    held = session.sender.streams[entry.stream].frames
    parts = [frame.payload for frame in held if first < frame.seq <= entry.seq]
    return parts[0] if len(parts) == 1 else b"".join(parts)


def leave_to_flash(outbox: "Outbox") -> None:
    """Forget what has a segment now and was not handed over."""
    kept = []
    for entry in outbox.waiting:
        if entry.segment is None:
            kept.append(entry)
        else:
            outbox.size -= entry.size
    outbox.waiting = kept


def give_up_segment(outbox: "Outbox", session: "Session", segment: "Segment") -> None:
    """The messages of a segment are dropped: take them from the session."""
    kept = []
    for entry in outbox.handed:
        if entry.segment is segment:
            session.give_up(entry.stream, entry.seq + 1)
            outbox.release(entry)
        else:
            kept.append(entry)
    outbox.handed = kept


def oldest_sequence(outbox: "Outbox") -> int:
    """Return the lowest spool sequence among what is handed over; 2**40 without any."""
    return min([entry.sequence for entry in outbox.handed] + [1 << 40])
