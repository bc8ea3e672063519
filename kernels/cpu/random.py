"""Addressable standard normals: normal i of a stream is a function of (key, stream, i) alone.

Philox4x32-10 (Salmon, Moraes, Dror & Shaw 2011) maps the counter (i // 2, stream) to 128 bits
under a 64-bit key, and the Box-Muller transform maps these to two normals, cosine first. The
transform uses only additions, multiplications, divisions and square roots, each correctly rounded
and none fused, so a normal has the same bits on every processor and device that follows IEEE 754,
whatever its vector width. All integers are uint64: Numba would promote a mixture of uint64 and
signed integers to float64.
"""

from typing import NamedTuple

import numpy as np

from .jit import inlined, kernel, part


class Source(NamedTuple):
    """The key and the stream, both uint64, from which a frame's normals are drawn."""

    key: np.uint64
    stream: np.uint64


_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_ONE = np.uint64(1)
_TWO = np.uint64(2)
_TEN = np.uint64(10)
_TWELVE = np.uint64(12)
_BEFORE_LAST = np.uint64(62)
_LAST = np.uint64(63)

# Philox4x32: the two multipliers and the two key increments (golden ratio, sqrt(3) - 1).
_M0 = np.uint64(0xD2511F53)
_M1 = np.uint64(0xCD9E8D57)
_W0 = np.uint64(0x9E3779B9)
_W1 = np.uint64(0xBB67AE85)

# Bit fields of a double: a mantissa with the exponent of 1.0 is a number in [1, 2).
_MANTISSA_BITS = np.uint64(52)
_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
_ONE_BITS = np.uint64(0x3FF0000000000000)
_ROOT_HALF_BITS = np.uint64(0x3FE6A09E667F3BCD)
_ROOT_HALF_TO_ONE = np.uint64(0x3FF0000000000000 - 0x3FE6A09E667F3BCD)
_TWO_TO_52_BITS = np.uint64(0x4330000000000000)
_TWO_TO_52_PLUS_BIAS = 2.0**52 + 1023.0
_HALF_STEP = 2.0**-53

# ln 2 in two parts: an exponent of at most 53 times the first is exact.
_LN2_HIGH = 0.6931471804855391
_LN2_LOW = 7.440617110012397e-11
# log(1 + f) = 2 s + s z P(z), s = f / (2 + f), z = s^2 <= 0.0295; |error of z P| < 1e-17.
_LOG_0 = 0.666666666666667
_LOG_1 = 0.39999999999899505
_LOG_2 = 0.28571428625975487
_LOG_3 = 0.2222221113479508
_LOG_4 = 0.18182889125261723
_LOG_5 = 0.15331721600556042
_LOG_6 = 0.14616449685043406
# sin(pi t / 2) = t (pi / 2 + w P(w)), cos(pi t / 2) = 1 + w P(w), w = t^2 <= 1/4; errors < 2e-17.
_HALF_PI = 1.5707963267948966
_SIN_0 = -0.6459640975062462
_SIN_1 = 0.07969262624614423
_SIN_2 = -0.004681754134254207
_SIN_3 = 0.00016044116661409423
_SIN_4 = -3.5987029509735105e-06
_SIN_5 = 5.642225369163528e-08
_COS_0 = -1.2337005501361697
_COS_1 = 0.2536695079010478
_COS_2 = -0.020863480763340773
_COS_3 = 0.0009192602745468447
_COS_4 = -2.5202039028029178e-05
_COS_5 = 4.710678405505227e-07
_COS_6 = -6.329396344967424e-09


@inlined
def philox(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Philox4x32-10: map four counter words and two key words, below 2**32, to four words."""
    for _ in range(10):
        p0 = _M0 * c0
        p1 = _M1 * c2
        c0, c1 = (p1 >> _HALF) ^ c1 ^ k0, p1 & _LOW
        c2, c3 = (p0 >> _HALF) ^ c3 ^ k1, p0 & _LOW
        k0 = (k0 + _W0) & _LOW
        k1 = (k1 + _W1) & _LOW
    return c0, c1, c2, c3


@inlined
def as_float(bits: np.uint64) -> np.float64:
    """Return the double with the given bits."""
    return np.uint64(bits).view(np.float64)


@inlined
def as_bits(x: np.float64) -> np.uint64:
    """Return the bits of a double."""
    return np.float64(x).view(np.uint64)


@inlined
def radius(word: np.uint64) -> np.float64:
    """Return sqrt(-2 log u), u = (the top 52 bits of `word`, plus 1/2) / 2**52."""
    u = as_float(_ONE_BITS | (word >> _TWELVE)) - 1.0 + _HALF_STEP
    # u = 2^-e (1 + f) with 1 + f in [sqrt(1/2), sqrt(2)): the bits give e and f exactly.
    shifted = as_bits(u) + _ROOT_HALF_TO_ONE
    biased = (shifted >> _MANTISSA_BITS) | _TWO_TO_52_BITS
    e = _TWO_TO_52_PLUS_BIAS - as_float(biased)
    f = as_float((shifted & _MANTISSA) + _ROOT_HALF_BITS) - 1.0
    s = f / (2.0 + f)
    z = s * s
    p = _LOG_3 + z * (_LOG_4 + z * (_LOG_5 + z * _LOG_6))
    p = z * (_LOG_0 + z * (_LOG_1 + z * (_LOG_2 + z * p)))
    minus_log = e * _LN2_HIGH - (f - (s * (f - p) + e * _LN2_LOW))
    return np.sqrt(2.0 * minus_log)


@inlined
def sine_and_cosine(word: np.uint64) -> tuple[np.float64, np.float64]:
    """Return (sin, cos) of the angle, from −π/4 to π/4, that 52 bits of `word` choose."""
    t = as_float(_ONE_BITS | ((word >> _TEN) & _MANTISSA)) - 1.5 + _HALF_STEP
    w = t * t
    p = _SIN_0 + w * (_SIN_1 + w * (_SIN_2 + w * (_SIN_3 + w * (_SIN_4 + w * _SIN_5))))
    sine = t * (_HALF_PI + w * p)
    p = _COS_2 + w * (_COS_3 + w * (_COS_4 + w * (_COS_5 + w * _COS_6)))
    cosine = 1.0 + w * (_COS_0 + w * (_COS_1 + w * p))
    return sine, cosine


@inlined
def with_signs(
    word: np.uint64, odd: np.uint64, x: np.float64, y: np.float64
) -> tuple[np.float64, np.float64]:
    """Return x and y with the signs of the quadrant that two bits of `word` choose."""
    high = word >> _LAST
    x = as_float(as_bits(x) ^ ((high ^ odd) << _LAST))
    y = as_float(as_bits(y) ^ (high << _LAST))
    return x, y


@inlined
def direction(word: np.uint64) -> tuple[np.float64, np.float64]:
    """Return (cos, sin) of a uniform angle: two bits of `word` for the quadrant, 52 within it."""
    sine, cosine = sine_and_cosine(word)
    # A quarter turn is (c, s) -> (-s, c).
    odd = (word >> _BEFORE_LAST) & _ONE
    x, y = (sine, cosine) if odd == _ONE else (cosine, sine)
    return with_signs(word, odd, x, y)


@inlined
def two_words(key: np.uint64, stream: np.uint64, pair: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the words for the radius and for the direction of a pair of normals."""
    a, b, c, d = philox(
        pair & _LOW, pair >> _HALF, stream & _LOW, stream >> _HALF, key & _LOW, key >> _HALF
    )
    return a | (b << _HALF), c | (d << _HALF)


@inlined
def normal_pair(
    key: np.uint64, stream: np.uint64, pair: np.uint64
) -> tuple[np.float64, np.float64]:
    """Return normals 2 * pair and 2 * pair + 1 of a stream, float64."""
    first, second = two_words(key, stream, pair)
    r = radius(first)
    x, y = direction(second)
    return r * x, r * y


def fill_few_normals(key: np.uint64, stream: np.uint64, first: np.uint64, out: np.ndarray) -> None:
    """Do what `fill_normals` does, with the same bits, without a compiled kernel.

    The functions above work element by element on arrays, too. NumPy takes some 50 ns a number, a
    hundred times as long as the kernel, but the kernel takes 0.4 s to compile, and 10 ms to load.
    """
    begin = int(first & _ONE)
    pairs = (first >> _ONE) + np.arange((begin + out.size + 1) // 2, dtype=np.uint64)
    radii, words = two_words(key, stream, pairs)
    sine, cosine = sine_and_cosine(words)
    odd = (words >> _BEFORE_LAST) & _ONE
    turned = odd == _ONE
    xy = with_signs(words, odd, np.where(turned, sine, cosine), np.where(turned, cosine, sine))
    out[:] = (np.stack(xy, axis=1) * radius(radii)[:, None]).reshape(-1)[begin : begin + out.size]


@kernel
def fill_pairs(key: np.uint64, stream: np.uint64, pair: np.uint64, out: np.ndarray) -> None:
    """Fill the contiguous vector `out`, of even length, from normal 2 * pair on."""
    for step in range(np.uint64(out.size) >> _ONE):
        i = np.uint64(step)
        x, y = normal_pair(key, stream, pair + i)
        out[_TWO * i] = x
        out[_TWO * i + _ONE] = y


@kernel
def fill_normals(key: np.uint64, stream: np.uint64, first: np.uint64, out: np.ndarray) -> None:
    """Write normals first, first + 1, ... of a stream into the contiguous vector `out`.

    `key`, `stream` and `first` are uint64; `out` is float64, or float32 for the rounded values.
    """
    pair = first >> _ONE
    begin = 0
    if first & _ONE and out.size:
        out[0] = normal_pair(key, stream, pair)[1]
        pair += _ONE
        begin = 1
    end = begin + (out.size - begin) // 2 * 2
    fill_pairs(key, stream, pair, out[begin:end])
    if end < out.size:
        out[end] = normal_pair(key, stream, pair + np.uint64((end - begin) // 2))[0]


# Pairs of normals whose words `fill_interleaved` holds at a time, within the first-level cache.
WORDS = np.uint64(1024)


@part
def fill_interleaved(
    source: Source, width: int, pairs: int, out: np.ndarray, begin: int, words: np.ndarray
) -> None:
    """Write normals 2i and 2i + 1 of stream + l, l < width, to rows i and pairs + i of `out`.

    `out` is flat; its rows of `width` elements, a power of two, start at `begin`. `words` has
    2·WORDS uint64 elements of scratch. The two dependency chains of a normal, Philox and the
    transform, have separate loops: in one loop they stall each other, which was a quarter slower.
    """
    key, stream = source.key, source.stream
    count = np.uint64(pairs * width)
    mask = np.uint64(width - 1)
    shift = np.uint64(0)
    while mask >> shift:
        shift += _ONE
    first = np.uint64(0)
    while first < count:
        size = min(WORDS, count - first)
        for step in range(size):
            i = np.uint64(step)
            pair, s = (first + i) >> shift, stream + ((first + i) & mask)
            words[i], words[WORDS + i] = two_words(key, s, pair)
        target = np.uint64(begin) + first
        for step in range(size):
            i = np.uint64(step)
            r = radius(words[i])
            x, y = direction(words[WORDS + i])
            out[target + i] = r * x
            out[target + count + i] = r * y
        first += size
