"""The camera of an OpenMV board, by its newer module (csi) or its older one (sensor).

    camera = Camera()
    while True:
        await device.send_frame(camera.capture())

The picture stays in the frame buffer: it is compressed in its place and handed out
without a copy. The next ``capture`` overwrites it, so let ``send_frame`` return first.

Source: OpenMV documentation, modules csi, sensor and image.
"""

from fleetnet.errors import Unsupported

# Pictures taken while exposure and white balance settle, ms.
_SETTLE_MS = 500

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class Camera:
    """One camera.

    Args:
        framesize: name of the module's constant, "QVGA" or "VGA" for instance.
        pixformat: "RGB565" or "GRAYSCALE".
        quality: of the JPEG, 1 to 100.

    Raises:
        Unsupported: the firmware has neither csi nor sensor, or knows no such constant.
    """

    def __init__(self, framesize: str = "QVGA", pixformat: str = "RGB565", quality: int = 50):
        self._quality = quality
        self._snapshot: "Any" = None
        try:
            import csi  # type: ignore[import-not-found,unused-ignore]
        except ImportError:
            try:
                import sensor  # type: ignore[import-not-found,unused-ignore]
            except ImportError:
                raise Unsupported("no camera: this firmware has neither csi nor sensor")
            self._open_sensor(sensor, framesize, pixformat)
        else:
            self._open_csi(csi, framesize, pixformat)

    def _open_csi(self, csi: "Any", framesize: str, pixformat: str) -> None:
        camera = csi.CSI()
        camera.reset()
        camera.pixformat(_constant(csi, pixformat))
        camera.framesize(_constant(csi, framesize))
        camera.snapshot(time=_SETTLE_MS)
        self._snapshot = camera.snapshot

    def _open_sensor(self, sensor: "Any", framesize: str, pixformat: str) -> None:
        sensor.reset()
        sensor.set_pixformat(_constant(sensor, pixformat))
        sensor.set_framesize(_constant(sensor, framesize))
        sensor.skip_frames(time=_SETTLE_MS)
        self._snapshot = sensor.snapshot

    def capture(self) -> "bytearray":
        """Take a picture; return its JPEG, which lies in the frame buffer."""
        image = self._snapshot()
        if hasattr(image, "to_jpeg"):
            image = image.to_jpeg(quality=self._quality)
        else:
            image = image.compress(quality=self._quality)
        jpeg: bytearray = image.bytearray()
        return jpeg


def _constant(module: "Any", name: str) -> "Any":
    try:
        return getattr(module, name)
    except AttributeError:
        raise Unsupported("this camera knows no %s" % name)
