"""Keys on the curve P-256 made on the device, and signatures with them.

    private, public = await make_key()
    r, s = await sign(private, public, hashlib.sha256(data).digest())

Both give the loop its turn after every few point additions, so that the longest step is some
0.2 ms on a PC. One formula adds any two points, equal ones and the infinity included, and the
sequence of operations is the same for every key. The numbers themselves are Python integers,
whose time depends on their values a little: somebody who measures the board's power or time at
close range is not kept out.

Nothing here puts a private value into an error or prints it.

Sources: FIPS 186-4 section 6 and appendix D.1.2.3; Renes, Costello, Batina, "Complete addition
formulas for prime order elliptic curves" (2016), algorithm 4; RFC 6979 section 3.2.
"""

import hashlib

from fleetnet.errors import CredentialError
from fleetnet.ports import port

TYPE_CHECKING = False
if TYPE_CHECKING:
    # Homogeneous coordinates (X, Y, Z): x = X / Z, y = Y / Z; Z = 0 is the infinity.
    Point = tuple[int, int, int]

SIZE = 32  # bytes of a private number and of a coordinate

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B

# Exponents that invert (Fermat): the operations do not depend on what is inverted.
_INVERT_P = (P - 2).to_bytes(SIZE, "big")
_INVERT_N = (N - 2).to_bytes(SIZE, "big")

_INFINITY = (0, 1, 0)

# The base point times 2**192, 2**128, 2**64 and 1: a 256-bit multiple of it is the sum of four
# 64-bit ones, which share their doublings.
_BASES = (
    (
        0xA6D39677A78492762736FF8344315FC596439591A3C6B94A6CF20FFB313728BE,
        0x674F84749B0B881666B8BABD2D27ECDF824A920C2284059BF2BAB833C357F5F4,
        1,
    ),
    (
        0x447D739BEEDB5E67FB982FD588C6766EFC35FF7DC297EAC357C84FC9D789BD85,
        0x2D4825AB834131EEE12E9D953A4AAFF73D349B95A7FAE5000C7E33C972E25B32,
        1,
    ),
    (
        0x0FA822BC2811AAA58492592E326E25DE29493BAAAD651F7E90E75CB48E14DB63,
        0xBFF44AE8F5DBA80D6F4AD4BCB3DF188B34B1A65050FE82F5E41124545F462EE7,
        1,
    ),
    (
        0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
        0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
        1,
    ),
)

_ADDITIONS = 8  # between two turns of the loop
_DRAWS = 8  # of a private number; one is refused with a probability of 2**-32


def _add(first: "Point", second: "Point") -> "Point":
    """Add any two points of the curve: 12 products, 2 more by constants; no exceptions."""
    x1, y1, z1 = first
    x2, y2, z2 = second
    xx = x1 * x2 % P
    yy = y1 * y2 % P
    zz = z1 * z2 % P
    xy = ((x1 + y1) * (x2 + y2) - xx - yy) % P
    yz = ((y1 + z1) * (y2 + z2) - yy - zz) % P
    xz = ((x1 + z1) * (x2 + z2) - xx - zz) % P
    u = 3 * (xz - _B * zz) % P
    v = 3 * (_B * xz - 3 * zz - xx) % P
    w = 3 * (xx - zz)
    more = yy + u
    less = yy - u
    return (xy * more - yz * v) % P, (less * more + w * v) % P, (yz * less + xy * w) % P


async def _power(base: int, exponent: bytes, modulus: int) -> int:
    """Return base**exponent % modulus; the exponent is public, 32 B."""
    result = 1
    for at in range(SIZE):
        byte = exponent[at]
        for bit in range(7, -1, -1):
            result = result * result % modulus
            if byte >> bit & 1:
                result = result * base % modulus
        if at & 3 == 3:
            await port.sleep_ms(0)
    return result


async def _sum(points: "tuple[Point, ...]", scalars: "list[bytes]") -> "Point":
    """Return the sum of each point times its scalar: four of them, scalars of one length.

    Each bit costs one doubling and one addition, of the infinity where all four bits are 0.
    """
    table: "list[Point]" = [_INFINITY]
    for point in points:
        table.extend([_add(each, point) for each in table])
        await port.sleep_ms(0)
    first, second, third, fourth = scalars
    total = _INFINITY
    left = _ADDITIONS
    for at in range(len(first)):
        for bit in range(7, -1, -1):
            index = (
                (first[at] >> bit & 1)
                | (second[at] >> bit & 1) << 1
                | (third[at] >> bit & 1) << 2
                | (fourth[at] >> bit & 1) << 3
            )
            total = _add(_add(total, total), table[index])
            left -= 2
            if not left:
                await port.sleep_ms(0)
                left = _ADDITIONS
    return total


def _split(number: int, count: int) -> "list[bytes]":
    """Return a 256-bit number as ``count`` pieces of one length, the highest first."""
    data = number.to_bytes(SIZE, "big")
    size = SIZE // count
    return [data[at : at + size] for at in range(0, SIZE, size)]  # bounded: 32 B


def _is_on_curve(x: int, y: int) -> bool:
    return x < P and y < P and (y * y - (x * x - 3) * x - _B) % P == 0


async def _multiply_base(scalar: int) -> "tuple[int, int]":
    """Return (x, y) of the base point times 1 <= scalar < N."""
    x, y, z = await _sum(_BASES, _split(scalar, 4))
    inverse = await _power(z, _INVERT_P, P)
    x, y = x * inverse % P, y * inverse % P
    if not _is_on_curve(x, y):
        raise CredentialError("the arithmetic of this board failed; try again")
    return x, y


async def public_key(private: bytes) -> bytes:
    """Return the public key, 65 B (0x04, x, y), of a private one of 32 B.

    Raises:
        CredentialError: it is no private key of P-256.
    """
    x, y = await _multiply_base(_scalar(private))
    return b"\x04" + x.to_bytes(SIZE, "big") + y.to_bytes(SIZE, "big")


def _scalar(private: bytes) -> int:
    number = int.from_bytes(private, "big")
    if len(private) != SIZE or not 0 < number < N:
        raise CredentialError("not a private key of P-256: make another one")
    return number


def draw() -> bytes:
    """Return a private key, 32 B from the firmware's random source, below N by rejection.

    Raises:
        CredentialError: the source repeats itself or gives no number that fits.
    """
    last = b""
    for _ in range(_DRAWS):
        data = port.random_bytes(SIZE)
        if data == last:
            break
        # The first one only shows that the second one is another.
        if last and 0 < int.from_bytes(data, "big") < N:
            return data
        last = data
    raise CredentialError(
        "os.urandom of this firmware is not random: no key can be made here; let "
        "`fleetnet device add` make it"
    )


async def make_key() -> "tuple[bytes, bytes]":
    """Make a key: (private, 32 B; public, 65 B: 0x04, x, y).

    Raises:
        CredentialError: the random source or the arithmetic failed.
    """
    private = draw()
    return private, await public_key(private)


def _hmac(key: bytes, data: bytes) -> bytes:
    """HMAC-SHA256 (RFC 2104) with a key of 32 B; MicroPython has no module hmac."""
    padded = key + bytes(32)
    inner = hashlib.sha256(bytes([each ^ 0x36 for each in padded]) + data).digest()
    return hashlib.sha256(bytes([each ^ 0x5C for each in padded]) + inner).digest()


class _Nonces:
    """The nonces of one signature (RFC 6979 section 3.2): no chance, never one for two digests."""

    def __init__(self, private: bytes, digest: bytes):
        reduced = int.from_bytes(digest, "big") % N
        seed = private + reduced.to_bytes(SIZE, "big")
        self._value = b"\x01" * SIZE
        self._key = bytes(SIZE)
        for mark in (b"\0" + seed, b"\x01" + seed):
            self._stir(mark)

    def _stir(self, mark: bytes) -> None:
        self._key = _hmac(self._key, self._value + mark)
        self._value = _hmac(self._key, self._value)

    def next(self) -> int:
        while True:
            self._value = _hmac(self._key, self._value)
            nonce = int.from_bytes(self._value, "big")
            if 0 < nonce < N:
                return nonce
            self._stir(b"\0")

    def reject(self) -> None:
        """Make next() give another one."""
        self._stir(b"\0")


async def sign(private: bytes, public: bytes, digest: bytes) -> "tuple[int, int]":
    """Return the ECDSA signature (r, s) over a SHA-256 digest, 32 B.

    It is verified before anybody sees it: a flipped bit in a number would give a signature from
    which the private key can be computed.

    Raises:
        CredentialError: the keys are none, or do not belong together, or the arithmetic failed.
    """
    secret = _scalar(private)
    if len(digest) != SIZE:
        raise CredentialError("a digest of %d B: SHA-256 has 32" % len(digest))
    number = int.from_bytes(digest, "big")
    nonces = _Nonces(private, digest)
    while True:
        nonce = nonces.next()
        r = (await _multiply_base(nonce))[0] % N
        s = await _power(nonce, _INVERT_N, N) * (number + r * secret) % N
        if r and s:
            break
        nonces.reject()
    if not await _verifies(public, number, r, s):
        raise CredentialError(
            "the signature is wrong: the private key is not that of the public key, or the "
            "arithmetic of this board failed; make another key"
        )
    return r, s


async def _verifies(public: bytes, number: int, r: int, s: int) -> bool:
    """Say whether (r, s) is a signature over a digest (FIPS 186-4 section 6.4)."""
    x = int.from_bytes(public[1 : 1 + SIZE], "big")
    y = int.from_bytes(public[1 + SIZE :], "big")
    if len(public) != 1 + 2 * SIZE or public[0] != 4 or not _is_on_curve(x, y):
        return False
    inverse = await _power(s, _INVERT_N, N)
    key = (x, y, 1)
    high = key  # times 2**128
    for count in range(128):
        high = _add(high, high)
        if not count % _ADDITIONS:
            await port.sleep_ms(0)
    scalars = _split(number * inverse % N, 2) + _split(r * inverse % N, 2)
    x, _, z = await _sum((_BASES[1], _BASES[3], high, key), scalars)
    # The x of the point is r, or r + N where that is a coordinate, too; Z is on both sides.
    return z != 0 and any([(x - each * z) % P == 0 for each in (r, r + N) if each < P])
