"""The camera's two modules, played by stand-ins that make real JPEG pictures."""

import sys

FOLDER = __file__.rsplit("/", 1)[0] if "/" in __file__ else "."
from fleetnet.errors import Unsupported  # noqa: E402
from fleetnet_device.camera import Camera  # noqa: E402


def with_modules(folder, action):
    """Run ``action`` on a firmware that has the modules of tests/``folder``."""
    path = FOLDER + "/../" + folder
    sys.path.insert(0, path)
    try:
        return action()
    finally:
        sys.path.remove(path)
        for name in ("csi", "sensor"):
            if name in sys.modules:
                del sys.modules[name]


def check_jpeg(data, width, height):
    """Baseline JPEG: start, frame header with this size, one scan without markers, end."""
    assert bytes(data[:2]) == b"\xff\xd8" and bytes(data[-2:]) == b"\xff\xd9"
    at = 2
    while data[at + 1] != 0xDA:
        assert data[at] == 0xFF
        if data[at + 1] == 0xC0:
            assert data[at + 5] << 8 | data[at + 6] == height
            assert data[at + 7] << 8 | data[at + 8] == width
        at += 2 + (data[at + 2] << 8 | data[at + 3])
    for index in range(at + 10, len(data) - 2):
        assert data[index] != 0xFF or data[index + 1] == 0


def pictures():
    camera = Camera("VGA", "GRAYSCALE")
    first = camera.capture()
    size, start = len(first), bytes(first[:2000])
    check_jpeg(first, 640, 480)
    second = camera.capture()
    assert bytes(second[:2000]) != start
    # The same memory: nothing was copied, and the picture before is gone.
    assert bytes(first[:2000]) == bytes(second[:2000])
    return size


def test_csi():
    assert 55_000 < with_modules("openmv", pictures) < 65_000


def test_sensor():
    assert 55_000 < with_modules("openmv_older", pictures) < 65_000


def test_no_camera():
    for action in (Camera, lambda: with_modules("openmv", lambda: Camera("NO_SUCH_SIZE"))):
        try:
            action()
            raise AssertionError("no error")
        except Unsupported as error:
            assert "camera" in str(error)
