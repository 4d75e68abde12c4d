"""What RESULT and CONFIG_STATE messages change beside being stored, in the same commit.

Called by the store inside its transaction; nothing here begins or ends one.
"""

import json
import re
from collections.abc import Sequence

from fleetnet import commands as wire
from fleetnet.frame import CONFIG_STATE, OPTIONAL, RESULT
from fleetnet_server.core.bodies import Message, decode_answer
from fleetnet_server.store.ports import Connection

# The id at the head of a RESULT that cannot be read: its caller learns that much.
_HEAD = re.compile(rb'\s*\[\s*"([!#-\[\]-~]{1,32})"')


def apply_answers(connection: Connection, batch: Sequence[Message]) -> None:
    """Note what a batch's answers say. Applying one twice changes nothing."""
    for message in batch:
        kind = message.kind & ~OPTIONAL
        if kind == RESULT:
            _apply_result(connection, message)
        elif kind == CONFIG_STATE and message.problem is None:
            version, state, value = decode_answer(kind, message.body)
            connection.execute(
                "UPDATE configs SET state_version = ?, state = ?, reported = ?, state_ms = ?"
                " WHERE device = ? AND version >= ?1",
                (version, state, value, message.received, message.device_id),
            )


def _apply_result(connection: Connection, message: Message) -> None:
    if message.problem is None:
        command_id, status, value = decode_answer(RESULT, message.body)
    else:
        body = message.body.encode() if isinstance(message.body, str) else message.body
        head = _HEAD.match(body)
        if head is None:
            return
        command_id, status = head.group(1).decode(), wire.ERROR
        value = json.dumps(["ProtocolError", f"unreadable result: {message.problem}"])
    if status == wire.BUSY:
        return  # it did not begin, and is sent again
    connection.execute(
        "UPDATE commands SET state = ?, result = ?, ended_ms = ?"
        " WHERE id = ? AND device = ? AND ended_ms IS NULL",
        (status, value, message.received, command_id, message.device_id),
    )
