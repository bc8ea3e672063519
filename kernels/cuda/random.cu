// Normals written to where they are wanted: vectors, batches of streams, rows of padded layers.

// Row r of `out` gets `length` normals of stream + r·stream_step, from number first + r·step on,
// each rounded and then multiplied by `scale`. Rows lie `stride` numbers apart.
KERNEL void fill_normals(u64 key, u64 stream, u64 first, real* out, i64 rows, i64 length,
                         i64 stride, i64 stream_step, i64 step, real scale) {
    i64 pairs = length / 2 + 1;  // covers rows that begin with the second of a pair
    i64 all = rows * pairs, apart = (i64)blocks() * threads();
    for (i64 item = (i64)block() * threads() + thread(); item < all; item += apart) {
        i64 row = item / pairs;
        u64 begin = first + (u64)(row * step), pair = begin / 2 + (u64)(item % pairs);
        double x, y;
        normal_pair(key, stream + (u64)(row * stream_step), pair, x, y);
        i64 at = (i64)(2 * pair - begin);
        real* to = out + row * stride;
        if (0 <= at && at < length) to[at] = (real)x * scale;
        if (at + 1 < length) to[at + 1] = (real)y * scale;
    }
}
EXPORT(fill_normals)
