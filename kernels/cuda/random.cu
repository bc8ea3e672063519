// Write standard normals to their destination: vectors, batches of streams, rows of padded layers.

// Fill row r of `out` with `length` normals of stream + r·stream_step, from number first + r·step
// on, each rounded and then multiplied by `scale`. Rows are `stride` elements apart.
KERNEL void fill_normals(BY_VALUE FillNormals p) {
    i64 pairs = p.length / 2 + 1;  // includes rows that begin with the second normal of a pair
    i64 all = p.rows * pairs, apart = (i64)blocks() * threads();
    for (i64 item = (i64)block() * threads() + thread(); item < all; item += apart) {
        i64 row = item / pairs;
        u64 begin = p.first + (u64)(row * p.step), pair = begin / 2 + (u64)(item % pairs);
        double x, y;
        normal_pair(p.key, p.stream + (u64)(row * p.stream_step), pair, x, y);
        i64 at = (i64)(2 * pair - begin);
        real* to = p.out + row * p.stride;
        if (0 <= at && at < p.length) to[at] = (real)x * p.scale;
        if (at + 1 < p.length) to[at + 1] = (real)y * p.scale;
    }
}
EXPORT(fill_normals)
