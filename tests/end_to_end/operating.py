"""What an operator does beside a running server, and what the audit log says of it."""

import asyncio
import json
from typing import Any

from end_to_end.fleet import Fleet


async def fleetnet(fleet: Fleet, *arguments: str, code: int = 0) -> str:
    """Run a command beside the server; return what it printed, errors behind the rest."""
    done = await fleet.run(*arguments)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done.stdout + done.stderr


async def audit(fleet: Fleet, action: str) -> list[dict[str, Any]]:
    """Return the rows of one action, oldest first."""
    text = await fleetnet(fleet, "audit", "--action", action, "--json")
    return [json.loads(line) for line in text.splitlines()]


async def until_noted(fleet: Fleet, action: str, timeout_s: float = 30.0) -> dict[str, Any]:
    """Wait for a row of an action; return the newest."""
    async with asyncio.timeout(timeout_s):
        while not (rows := await audit(fleet, action)):
            await asyncio.sleep(0.1)
    return rows[-1]
