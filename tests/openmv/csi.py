"""Stands in for OpenMV's camera on a PC: the calls of its module csi, and real JPEG pictures.

Like the real one it has one frame buffer: a picture is compressed in its place, handed out
without a copy, and overwritten by the next. The picture is grey noise on a ramp that moves
with each snapshot, encoded as a baseline JPEG (ITU-T T.81) with Huffman tables of its own.
"""

RGB565 = "RGB565"
GRAYSCALE = "GRAYSCALE"
QVGA = (320, 240)
VGA = (640, 480)

# The one frame buffer. The picture itself is made while it is compressed, so that this has
# room for the JPEG only.
_BUFFER = bytearray(81_920)

# DC differences: sizes 0 to 11, four bits each. AC: 8-bit values without zeros before them
# ("0"), end of block ("10").
_DC = bytes(range(12))
_AC = bytes((0x08, 0x00))
_NOISY = 10  # AC values of each block


def _segment(marker, body):
    size = len(body) + 2
    return bytes((0xFF, marker, size >> 8, size & 0xFF)) + body


def _counts(*lengths):
    """Number of codes of 1 to 16 bits."""
    counts = [0] * 16
    for length, count in lengths:
        counts[length - 1] = count
    return bytes(counts)


def _head(width, height, quality):
    step = max(1, (100 - quality) // 10)
    size = bytes((height >> 8, height & 0xFF, width >> 8, width & 0xFF))
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xDB, b"\x00" + bytes([step] * 64)),
            _segment(0xC0, b"\x08" + size + b"\x01\x01\x11\x00"),
            _segment(0xC4, b"\x00" + _counts((4, 12)) + _DC),
            _segment(0xC4, b"\x10" + _counts((1, 1), (2, 1)) + _AC),
            _segment(0xDA, b"\x01\x01\x00\x00\x3f\x00"),
        )
    )


class _Bits:
    """Writes bits into the frame buffer; a zero byte follows each 0xFF."""

    def __init__(self, at):
        self.at = at
        self._held = self._count = 0

    def put(self, value, count):
        self._held = self._held << count | value
        self._count += count
        while self._count >= 8:
            self._count -= 8
            byte = self._held >> self._count & 0xFF
            _BUFFER[self.at] = byte
            self.at += 1
            if byte == 0xFF:
                _BUFFER[self.at] = 0
                self.at += 1
        self._held &= (1 << self._count) - 1

    def end(self):
        if self._count:
            self.put((1 << (8 - self._count)) - 1, 8 - self._count)


def encode(width, height, quality, turn):
    """Put a picture into the frame buffer; return its length in bytes."""
    head = _head(width, height, quality)
    _BUFFER[: len(head)] = head
    bits = _Bits(len(head))
    noise = turn * 7919 + 1
    before = 0
    for row in range(height // 8):
        for column in range(width // 8):
            level = (column * 4 + row * 2 + turn * 8) % 256 - 128
            difference, before = level - before, level
            size = 0
            while abs(difference) >> size:
                size += 1
            bits.put(size, 4)
            if size:
                bits.put(difference if difference > 0 else difference + (1 << size) - 1, size)
            for _ in range(_NOISY):
                noise = (noise * 1664525 + 1013904223) & 0xFFFFFFFF
                # "0", then a number whose size is 8 bits: -255 .. -128 or 128 .. 255
                bits.put(noise >> 24, 9)
            bits.put(2, 2)
    bits.end()
    _BUFFER[bits.at : bits.at + 2] = b"\xff\xd9"
    return bits.at + 2


class Image:
    """A picture in the frame buffer."""

    def __init__(self, width, height, turn):
        self._shape = (width, height, turn)
        self._size = width * height * 2

    def to_jpeg(self, quality=90):
        width, height, turn = self._shape
        self._size = encode(width, height, quality, turn)
        return self

    def size(self):
        return self._size

    def bytearray(self):
        return memoryview(_BUFFER)[: self._size]


class CSI:
    """The camera."""

    def __init__(self):
        self._turn = 0
        self._shape = QVGA
        self.calls = []

    def reset(self):
        self.calls.append("reset")

    def pixformat(self, value):
        self.calls.append(value)

    def framesize(self, value):
        self.calls.append(value)
        self._shape = value

    def snapshot(self, time=0):
        self._turn += 1
        return Image(self._shape[0], self._shape[1], self._turn)
