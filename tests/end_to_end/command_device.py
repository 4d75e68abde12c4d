"""A device program with commands and a configuration: run by MicroPython and CPython.

    micropython command_device.py BUNDLE [forgetful]

"forgetful" takes its journal away: the device that the tests must catch. Each handler that
begins appends a line to BUNDLE/ran: what counts executions over reboots. "held" ends when there is
no BUNDLE/hold.
Prints a line of JSON each 100 ms; ends when its standard input is closed.
"""

import asyncio
import json
import select
import sys

from fleetnet_device import Device


class Forgetful:
    """A journal that keeps nothing."""

    is_complete = True

    def find(self, command_id: str) -> None:
        return None

    def begin(self, command_id: str) -> None:
        pass

    def end(self, command_id: str, result: bytes) -> None:
        pass


def note(bundle: str, text: str) -> None:
    with open(bundle + "/ran", "a") as file:
        file.write(text + "\n")


def is_there(path: str) -> bool:
    try:
        open(path).close()
    except OSError:
        return False
    return True


def add_commands(device: "Device", bundle: str) -> None:
    @device.command()
    async def add(a, b=0):
        total = a + b
        note(bundle, "add")
        return {"sum": total}

    @device.command()
    def fail(text):
        note(bundle, "fail")
        raise RuntimeError(text)

    @device.command("slow")
    async def slow(ms, tag="slow"):
        note(bundle, tag)
        await asyncio.sleep(ms / 1000)
        return tag

    @device.command()
    async def held():
        note(bundle, "held")
        while is_there(bundle + "/hold"):
            await asyncio.sleep(0.05)
        return "held"

    leaving = []

    async def leave():
        await device.stop()
        note(bundle, "left")
        await device.start()

    @device.command()
    async def restart():
        leaving.append(asyncio.create_task(leave()))
        return "going"

    @device.command()
    async def stop_at_once():
        try:
            await device.stop()
        finally:
            leaving.append(asyncio.create_task(device.start()))

    @device.config.on_change
    async def take(document):
        note(bundle, f"config {document.get('rate')}")
        await asyncio.sleep(0)
        if document.get("rate") == "bad":
            raise ValueError("rate is a number")
        return {"rate": document.get("rate")}


async def main(bundle: str, is_forgetful: bool) -> None:
    poller = select.poll()
    poller.register(sys.stdin, select.POLLIN)
    device = Device(bundle)
    add_commands(device, bundle)
    if is_forgetful:
        device.part("commands").journal = Forgetful()
    device.log("info", "started")
    async with device:
        done = False
        while not done:
            await asyncio.sleep(0.1)
            for _ in poller.poll(0):
                done = not sys.stdin.read(1)
            commands = device.part("commands")
            line = {
                "state": device.state,
                "connects": device.connects,
                "ran": commands.ran,
                "version": device.config.version,
                "rate": device.config.get("rate"),
                "errors": device.errors,
                "error": str(device.last_error or ""),
                "done": done,
            }
            print(json.dumps(line))
        await device.flush(10_000)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], "forgetful" in sys.argv))
