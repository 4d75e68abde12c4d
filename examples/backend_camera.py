"""Set a camera's exposure, give it a configuration, save its newest picture.

    backend_camera.py FOLDER DEVICE FILE

The back-end runs inside this program, and ends with it.
"""

import asyncio
import sys
from pathlib import Path

from fleetnet_server import Fleet


async def main(folder: str, name: str, target: str) -> None:
    async with Fleet(folder) as fleet:
        camera = fleet.device(name)
        await camera.online(60)
        print("exposure:", await camera.call("set_exposure", us=5000))
        version = await camera.set_config({"frame_rate": 5})
        frame = await camera.latest_frame()
        if frame is not None:
            await asyncio.to_thread(Path(target).write_bytes, frame.data)
        print("configuration", version, "picture", None if frame is None else frame.name)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit("usage: backend_camera.py FOLDER DEVICE FILE")
    asyncio.run(main(*sys.argv[1:]))
