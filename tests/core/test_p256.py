"""Keys and signatures of fleetnet_device.p256 against published values, on every interpreter.

Requests checked by OpenSSL: tests/device/test_csr.py.
"""

import hashlib

from fleetnet import der
from fleetnet.errors import CredentialError
from fleetnet_device import csr, p256

# RFC 6979 appendix A.2.5.
KEY = 0xC9AFA9D845BA75166B5C215767B1D6934E50C3DB36E89B127B8A622B120F6721
KEY_X = 0x60FED4BA255A9D31C961EB74C6356D68C049B8923B61FA6CE669622E60F29FB6
KEY_Y = 0x7903FE1008B8BC99A41AE9E95628BC64F2F1B20C2D7E9F5177A3C294D4462299
SIGNATURES = (
    (
        b"sample",
        0xA6E3C57DD01ABE90086538398355DD4C3B17AA873382B0F24D6129493D8AAD60,
        0xEFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716,
        0xF7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8,
    ),
    (
        b"test",
        0xD16B6AE827F17175E040871A1C7EC3500192C4C92677336EC2537ACAEE0008E0,
        0xF1ABB023518351CD71D881567B1EA663ED3EFCF6C5132B354F28D3B0B7D38367,
        0x019F4113742A2B14BD25926B49C649155F267E60D3814B4C0CC84250E46F0083,
    ),
)
# Multiples of the base point: NIST's, as in "Mathematical routines for the NIST prime elliptic
# curves" (2010), section 4.3, and others at the edges of what is computed.
G_X = 0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296
G_Y = 0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5
MULTIPLES = (
    (1, G_X, G_Y),
    (
        2,
        0x7CF27B188D034F7E8A52380304B51AC3C08969E277F21B35A60B48FC47669978,
        0x07775510DB8ED040293D9AC69F7430DBBA7DADE63CE982299E04B79D227873D1,
    ),
    (
        3,
        0x5ECBE4D1A6330A44C8F7EF951D4BF165E6C6B721EFADA985FB41661BC6E7FD6C,
        0x8734640C4998FF7E374B06CE1A64A2ECD82AB036384FB83D9A79B127A27D5032,
    ),
    (
        112233445566778899,
        0x339150844EC15234807FE862A86BE77977DBFB3AE3D96F4C22795513AEAAB82F,
        0xB1C14DDFDC8EC1B2583F51E85A5EB3A155840F2034730E9B5ADA38B674336A21,
    ),
    (KEY, KEY_X, KEY_Y),
    (p256.N - 2, 0x7CF27B188D034F7E8A52380304B51AC3C08969E277F21B35A60B48FC47669978,
     p256.P - 0x07775510DB8ED040293D9AC69F7430DBBA7DADE63CE982299E04B79D227873D1),
    (p256.N - 1, G_X, p256.P - G_Y),
)  # fmt: skip


def octets(number):
    return number.to_bytes(32, "big")


def point(x, y):
    return b"\x04" + octets(x) + octets(y)


PRIVATE = octets(KEY)
PUBLIC = point(KEY_X, KEY_Y)


class Watched:
    """Stands before p256's port and its addition: counts what happens between two yields."""

    def __init__(self, draws=()):
        self.draws = list(draws)
        self.trace = []
        self._since = 0

    def __enter__(self):
        self._port, self._add = p256.port, p256._add
        p256.port = self
        p256._add = self.add
        return self

    def __exit__(self, *_):
        p256.port, p256._add = self._port, self._add

    def add(self, first, second):
        self._since += 1
        return self._add(first, second)

    async def sleep_ms(self, ms):
        assert ms == 0
        self.trace.append(self._since)
        self._since = 0
        await self._port.sleep_ms(0)

    def random_bytes(self, size):
        assert size == 32
        return self.draws.pop(0)


async def refusal(awaitable):
    try:
        await awaitable
    except CredentialError as error:
        return str(error)
    return None


async def test_multiples_of_the_base_point():
    for scalar, x, y in MULTIPLES:
        assert await p256.public_key(octets(scalar)) == point(x, y), scalar


def test_one_formula_adds_any_two_points():
    g = (G_X, G_Y, 1)
    minus = (G_X, p256.P - G_Y, 1)
    none = (0, 1, 0)

    def same(a, b):
        return all([(a[i] * b[j] - a[j] * b[i]) % p256.P == 0 for i, j in ((0, 1), (0, 2), (1, 2))])

    double = (MULTIPLES[1][1], MULTIPLES[1][2], 1)
    assert same(p256._add(g, g), double)
    assert same(p256._add(p256._add(double, g), minus), double)
    assert same(p256._add(g, minus), none)
    assert same(p256._add(g, none), g) and same(p256._add(none, g), g)
    assert same(p256._add(none, none), none)
    assert not same(double, g)


async def test_signatures_of_rfc_6979():
    for message, nonce, r, s in SIGNATURES:
        digest = hashlib.sha256(message).digest()
        assert p256._Nonces(PRIVATE, digest).next() == nonce
        assert await p256.sign(PRIVATE, PUBLIC, digest) == (r, s)


def test_nonces_differ_by_key_digest_and_try():
    digest = hashlib.sha256(b"sample").digest()
    nonces = p256._Nonces(PRIVATE, digest)
    first = nonces.next()
    nonces.reject()
    others = [nonces.next(), p256._Nonces(octets(KEY - 1), digest).next()]
    others.append(p256._Nonces(PRIVATE, hashlib.sha256(b"other").digest()).next())
    assert len(set(others + [first])) == 4


async def test_no_step_is_long_and_none_depends_on_the_key():
    traces = []
    digest = hashlib.sha256(b"x").digest()
    for scalar in (1, KEY, p256.N - 1):
        private = octets(scalar)
        with Watched() as watched:
            public = await p256.public_key(private)
            await p256.sign(private, public, digest)
        assert max(watched.trace) <= 8
        traces.append(watched.trace)
    assert traces[0] == traces[1] == traces[2]
    # 143 additions a multiple, 399 for the check.
    assert sum(traces[0]) == 143 + 143 + 128 + 15 + 256


async def test_a_draw_outside_the_range_is_rejected():
    too_large = octets(p256.N)
    with Watched([b"first" + bytes(27), too_large, octets(p256.N + 1), PRIVATE]) as watched:
        assert await p256.make_key() == (PRIVATE, PUBLIC)
        assert not watched.draws
    with Watched([b"first" + bytes(27)] + [octets(p256.N + each) for each in range(20)]):
        said = await refusal(p256.make_key())
    assert "not random" in said


async def test_a_stuck_random_source_makes_no_key():
    for stuck in (bytes(32), b"\xff" * 32, PRIVATE):
        with Watched([stuck] * 20):
            said = await refusal(p256.make_key())
        assert "os.urandom" in said and "fleetnet device add" in said


async def test_the_check_does_not_take_the_infinity_for_a_point():
    # Of private key 1, a digest of -r: u1 * G + u2 * Q = ((N - r) + r) / s * G.
    public = point(G_X, G_Y)
    assert not await p256._verifies(public, p256.N - 5, 5, 7)
    digest = hashlib.sha256(b"x").digest()
    r, s = await p256.sign(octets(1), public, digest)
    assert await p256._verifies(public, int.from_bytes(digest, "big"), r, s)


async def test_keys_that_are_none_are_refused():
    digest = bytes(32)
    for bad in (0, p256.N, p256.P):
        assert "not a private key" in await refusal(p256.public_key(octets(bad)))
        assert "not a private key" in await refusal(p256.sign(octets(bad), PUBLIC, digest))
    assert "not a private key" in await refusal(p256.public_key(PRIVATE[1:]))
    assert "digest of 31 B" in await refusal(p256.sign(PRIVATE, PUBLIC, digest[1:]))


async def test_a_flipped_bit_gives_no_signature():
    """In the private key, the public one, their pair, or the arithmetic."""
    flipped_key = bytes([PRIVATE[0] ^ 1]) + PRIVATE[1:]
    flipped_point = PUBLIC[:40] + bytes([PUBLIC[40] ^ 4]) + PUBLIC[41:]
    pairs = [(flipped_key, PUBLIC), (PRIVATE, flipped_point), (PRIVATE, point(G_X, G_Y))]
    pairs += [(PRIVATE, PUBLIC[:-1]), (PRIVATE, b"\x02" + PUBLIC[1:]), (PRIVATE, b"")]
    for private, public in pairs:
        said = await refusal(csr.make_request("cam-1", private, public))
        assert "signature is wrong" in said, public
        assert str(KEY) not in said and "C9AFA9" not in said.upper()


class Flipping(Watched):
    """One bit of one coordinate of one addition is wrong."""

    def __init__(self, at):
        super().__init__()
        self.left = at

    def add(self, first, second):
        x, y, z = self._add(first, second)
        self.left -= 1
        return (x ^ 0x1000, y, z) if self.left == 0 else (x, y, z)


async def test_a_fault_in_any_addition_is_seen():
    # The table, the first and the last steps; the multiple of a signature, then its check.
    for at in (15, 16, 60, 142, 143):
        with Flipping(at):
            assert "arithmetic" in await refusal(p256.public_key(PRIVATE))
    digest = hashlib.sha256(b"x").digest()
    for at in (100, 143, 144, 271, 272, 300, 527, 528, 541, 542):
        with Flipping(at):
            assert "arithmetic" in await refusal(p256.sign(PRIVATE, PUBLIC, digest)), at


def test_the_key_file_says_both_halves():
    data = csr.sec1(PRIVATE, PUBLIC)
    assert len(data) == 121 and der.size(data) == 121
    assert der.algorithm(data) == der.EC and der.public_point(data) == PUBLIC
    assert data[7:39] == PRIVATE


async def test_a_request_carries_the_name_and_not_the_key():
    request = await csr.make_request("cam-1", PRIVATE, PUBLIC)
    assert der.size(request) == len(request)
    assert b"\x0c\x05cam-1" in request and b"\x86\x19urn:fleetnet:device:cam-1" in request
    assert PUBLIC in request and PRIVATE not in request
    long = "a" * 63
    assert long.encode() in await csr.make_request(long, PRIVATE, PUBLIC)
    for bad in ("", "a" * 64, "cam 1", "cam\n", "k\u00e4m"):
        assert "no device name" in await refusal(csr.make_request(bad, PRIVATE, PUBLIC))


def test_integers_are_as_short_as_der_wants():
    for number, data in (
        (1, b"\x02\x01\x01"),
        (0x7F, b"\x02\x01\x7f"),
        (0x80, b"\x02\x02\x00\x80"),
        (1 << 255, b"\x02\x21\x00\x80" + bytes(31)),
        (1 << 240, b"\x02\x1f\x01" + bytes(30)),
    ):
        assert csr._integer(number) == data
