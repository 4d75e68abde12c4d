"""fleetnet_device: what a camera imports.

    async with Device("bundle") as device:
        await device.send("temperature", 21.5)
"""

from fleetnet_device.device import Device

__all__ = ["Device"]
