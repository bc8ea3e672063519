// Addressable standard normals with the bits of kernels/cpu/random.py: Philox4x32-10 maps (pair,
// stream) under a key to 128 bits, and the Box-Muller transform maps these to two normals. No
// operation is fused or approximate, so that a normal has the same bits on every device.

DEVICE double twin_horner(double z, double c0, double c1, double c2, double c3) {
    double p = exact_add(c2, exact_mul(z, c3));
    p = exact_add(c1, exact_mul(z, p));
    return exact_add(c0, exact_mul(z, p));
}

DEVICE void philox(u32 (&c)[4], u32 k0, u32 k1) {
    UNROLL for (int round = 0; round < 10; round++) {
        u64 p0 = (u64)0xD2511F53u * c[0], p1 = (u64)0xCD9E8D57u * c[2];
        u32 c0 = (u32)(p1 >> 32) ^ c[1] ^ k0, c2 = (u32)(p0 >> 32) ^ c[3] ^ k1;
        c[0] = c0, c[1] = (u32)p1, c[2] = c2, c[3] = (u32)p0;
        k0 += 0x9E3779B9u, k1 += 0xBB67AE85u;
    }
}

constexpr u64 ONE_BITS = 0x3FF0000000000000ull, MANTISSA = 0x000FFFFFFFFFFFFFull;
constexpr double HALF_STEP = 1.1102230246251565e-16;  // 2^-53

// Return sqrt(-2 log u), u = (the top 52 bits of `word`, plus 1/2) / 2^52.
DEVICE double radius(u64 word) {
    constexpr u64 ROOT_HALF_BITS = 0x3FE6A09E667F3BCDull;
    double u = exact_add(exact_add(as_double(ONE_BITS | (word >> 12)), -1.0), HALF_STEP);
    u64 shifted = as_bits(u) + (ONE_BITS - ROOT_HALF_BITS);
    u64 biased = (shifted >> 52) | 0x4330000000000000ull;
    double e = exact_add(4503599627370496.0 + 1023.0, -as_double(biased));
    double f = exact_add(as_double((shifted & MANTISSA) + ROOT_HALF_BITS), -1.0);
    double s = exact_div(f, exact_add(2.0, f)), z = exact_mul(s, s);
    double p = twin_horner(z, 0.2222221113479508, 0.18182889125261723, 0.15331721600556042,
                           0.14616449685043406);
    p = twin_horner(z, 0.666666666666667, 0.39999999999899505, 0.28571428625975487, p);
    p = exact_mul(z, p);
    double low = exact_add(exact_mul(s, exact_add(f, -p)), exact_mul(e, 7.440617110012397e-11));
    double minus_log = exact_add(exact_mul(e, 0.6931471804855391), -exact_add(f, -low));
    return exact_root(exact_mul(2.0, minus_log));
}

// Set (x, y) to (cos, sin) of a uniform angle: two bits of `word` for the quadrant, 52 within it.
DEVICE void direction(u64 word, double& x, double& y) {
    double t = exact_add(exact_add(as_double(ONE_BITS | ((word >> 10) & MANTISSA)), -1.5),
                         HALF_STEP);
    double w = exact_mul(t, t);
    double p = exact_add(-3.5987029509735105e-06, exact_mul(w, 5.642225369163528e-08));
    p = twin_horner(w, 0.07969262624614423, -0.004681754134254207, 0.00016044116661409423, p);
    p = exact_add(-0.6459640975062462, exact_mul(w, p));
    double sine = exact_mul(t, exact_add(1.5707963267948966, exact_mul(w, p)));
    p = twin_horner(w, 0.0009192602745468447, -2.5202039028029178e-05, 4.710678405505227e-07,
                    -6.329396344967424e-09);
    p = twin_horner(w, -1.2337005501361697, 0.2536695079010478, -0.020863480763340773, p);
    double cosine = exact_add(1.0, exact_mul(w, p));
    u64 high = word >> 63, odd = (word >> 62) & 1;
    // A quarter turn is (c, s) -> (-s, c).
    x = as_double(as_bits(odd ? sine : cosine) ^ ((high ^ odd) << 63));
    y = as_double(as_bits(odd ? cosine : sine) ^ (high << 63));
}

// Set (x, y) to normals 2 * pair and 2 * pair + 1 of a stream.
DEVICE void normal_pair(u64 key, u64 stream, u64 pair, double& x, double& y) {
    u32 c[4] = {(u32)pair, (u32)(pair >> 32), (u32)stream, (u32)(stream >> 32)};
    philox(c, (u32)key, (u32)(key >> 32));
    double r = radius((u64)c[0] | ((u64)c[1] << 32));
    direction((u64)c[2] | ((u64)c[3] << 32), x, y);
    x = exact_mul(r, x);
    y = exact_mul(r, y);
}
