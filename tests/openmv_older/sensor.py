"""Stands in for OpenMV's camera on a PC, by its older module; see tests/openmv/csi.py."""

import sys

_HERE = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
sys.path.append(_HERE + "/../openmv")
import csi  # noqa: E402

sys.path.remove(_HERE + "/../openmv")
del sys.modules["csi"]  # a firmware has the one or the other

RGB565 = csi.RGB565
GRAYSCALE = csi.GRAYSCALE
QVGA = csi.QVGA
VGA = csi.VGA

_camera = csi.CSI()


class Image:
    """A picture whose compress() is the older name of to_jpeg()."""

    def __init__(self, image):
        self._image = image

    def compress(self, quality=50):
        self._image.to_jpeg(quality=quality)
        return self

    def bytearray(self):
        return self._image.bytearray()


def reset():
    _camera.reset()


def set_pixformat(value):
    _camera.pixformat(value)


def set_framesize(value):
    _camera.framesize(value)


def skip_frames(time=300):
    _camera.snapshot(time=time)


def snapshot():
    return Image(_camera.snapshot())
