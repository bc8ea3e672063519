// Independent Householder reflectors drawn from addressable streams, and the triangular factors
// of their products; kernels/cpu/reflectors.py has the mathematics. The products themselves are
// batched matrix products.
//
// Reflector j of frame k is row j of V[k], p × n row-major, with zeros before entry j.

// Block (j, k) draws reflector j of the frame of stream + k: d into sizes[k][j] and the sign of
// its column into signs[k][j].
KERNEL void draw_reflectors(u64 key, u64 stream, i64 n, i64 p, real* V, double* sizes,
                            real* signs) {
    double* squares = (double*)shared_memory();
    i64 j = block(), k = block_y(), length = n - j;
    u64 begin = (u64)(j * n - j * (j - 1) / 2);
    real* x = V + (k * p + j) * n + j;
    double total = 0;
    for (u64 pair = begin / 2 + thread(); 2 * pair < begin + length; pair += threads()) {
        double both[2];
        normal_pair(key, stream + (u64)k, pair, both[0], both[1]);
        for (int i = 0; i < 2; i++) {
            i64 at = (i64)(2 * pair + i - begin);
            if (at < 0 || at >= length) continue;
            x[at] = (real)both[i];
            total += (double)x[at] * (double)x[at];
        }
    }
    squares[thread()] = total;
    for (i64 i = thread() - j; i < 0; i += threads()) x[i] = 0;
    sync_block();
    // Any number of threads: the upper half is added to the lower until one is left.
    for (int left = threads(); left > 1; left = (left + 1) / 2) {
        int half = (left + 1) / 2;
        if (thread() + half < left) squares[thread()] += squares[thread() + half];
        sync_block();
    }
    if (thread() == 0) {
        double head = x[0], size = root(squares[0]);
        sizes[k * p + j] = squares[0] + size * (head < 0 ? -head : head);
        signs[k * p + j] = head < 0 ? 1 : -1;
        x[0] = (real)(head < 0 ? head - size : head + size);
    }
}
EXPORT(draw_reflectors)

// Block k writes −T of `count` reflectors from number j on: T⁻¹ = diag(d) + strict upper part of
// S[k], count × count. A thread has a column, solved upwards.
KERNEL void invert_factors(const real* S, const double* sizes, i64 p, i64 j, int count, real* T) {
    real* held = (real*)shared_memory();
    real* solved = held + count * count;
    i64 k = block();
    for (int i = thread(); i < count * count; i += threads()) held[i] = S[k * count * count + i];
    sync_block();
    for (int c = thread(); c < count; c += threads()) {
        for (int i = count - 1; i >= 0; i--) {
            real sum = i == c ? -1 : 0;
            for (int m = i + 1; m <= c; m++) sum -= held[i * count + m] * solved[m * count + c];
            solved[i * count + c] = i <= c ? (real)(sum / sizes[k * p + j + i]) : 0;
        }
    }
    sync_block();
    for (int i = thread(); i < count * count; i += threads()) T[k * count * count + i] = solved[i];
}
EXPORT(invert_factors)
