"""A device program that runs beside a test, and what it says of itself."""

import asyncio
import json
import signal
import time
from collections.abc import Callable
from typing import Any

from end_to_end.store_check import Account

# A device that works has no reason to take longer; a shared machine may be slow.
PATIENCE_S = 60.0
_POLL_S = 0.05


async def until(
    is_true: Callable[[], bool],
    what: str,
    timeout_s: float = PATIENCE_S,
    explain: Callable[[], object] = lambda: "",
) -> float:
    """Wait until ``is_true()``; return the seconds it took. AssertionError after ``timeout_s``."""
    began = time.monotonic()
    while not is_true():
        waited = time.monotonic() - began
        assert waited < timeout_s, f"after {waited:.0f} s still not: {what} {explain()}"
        await asyncio.sleep(_POLL_S)
    return time.monotonic() - began


class DeviceProcess:
    """A device program and what it printed.

    Attributes:
        lines: its JSON lines so far, each with "at" (seconds, monotonic).
    """

    def __init__(self, name: str, process: asyncio.subprocess.Process):
        self.name = name
        self.lines: list[dict[str, Any]] = []
        self._process = process
        self._noise: list[str] = []
        self._readers = [
            asyncio.create_task(self._read(process.stdout)),
            asyncio.create_task(self._read(process.stderr)),
        ]

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while line := await stream.readline():
            if line.startswith(b"{"):
                self.lines.append({**json.loads(line), "at": time.monotonic()})
            else:
                self._noise.append(line.decode(errors="replace"))

    def last(self, key: str) -> Any:
        """The newest value it printed, None before its first line."""
        return self.lines[-1][key] if self.lines else None

    def counter(self, key: str) -> int:
        """The same for a number, 0 before its first line."""
        return int(self.last(key) or 0)

    def errors(self) -> list[str]:
        """The distinct errors it named, in order."""
        return list(dict.fromkeys(line["error"] for line in self.lines if line["error"]))

    def account(self) -> Account:
        return Account(self.name, *(self.counter(k) for k in ("sent", "acknowledged", "dropped")))

    def story(self) -> str:
        """Its last lines and whatever else it printed, for a failed assertion."""
        text = "\n".join(map(str, self.lines[-8:]))
        return f"\n{self.name}: {self.errors()}\n{text}\n{''.join(self._noise[-40:])}"

    async def until_acknowledged(self, more: int, timeout_s: float = PATIENCE_S) -> float:
        """Wait until ``more`` readings than it had have been acknowledged."""
        goal = self.counter("acknowledged") + more
        return await until(
            lambda: self.counter("acknowledged") >= goal,
            f"{self.name} has {goal} acknowledged",
            timeout_s,
            self.story,
        )

    async def finish(self, timeout_s: float = PATIENCE_S) -> None:
        """Let it send what it has, and end: AssertionError when it does not do so in time."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        await self.ended(timeout_s)

    async def ended(self, timeout_s: float = PATIENCE_S) -> None:
        """Wait for its end by itself."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
                await asyncio.gather(*self._readers)
        except TimeoutError:
            raise AssertionError(f"did not end in {timeout_s} s {self.story()}") from None
        assert self._process.returncode == 0, self.story()
        assert self.last("done"), self.story()
        assert not self._noise, self.story()

    def freeze(self) -> None:
        """SIGSTOP: alive, and silent."""
        self._process.send_signal(signal.SIGSTOP)

    async def kill(self) -> None:
        """SIGKILL; the system ends its TCP connections."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.wait()
        await asyncio.gather(*self._readers)
