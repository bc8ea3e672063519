// Draw independent Householder reflectors from addressable streams, and form the triangular factors
// of their products; kernels/cpu/reflectors.py has the mathematics. The host forms the products by
// batched matrix products.
//
// Reflector j of frame k is row j of V[k], p × n row-major, with zeros before entry j.

// Draw reflector j of the frame of stream + k in block (j, k): write d to sizes[k][j] and the sign
// of column j to signs[k][j].
KERNEL void draw_reflectors(BY_VALUE DrawReflectors p) {
    double* squares = (double*)shared_memory();
    i64 j = block(), k = block_y(), length = p.n - j;
    u64 begin = (u64)(j * p.n - j * (j - 1) / 2);
    real* x = p.V + (k * p.p + j) * p.n + j;
    double total = 0;
    for (u64 pair = begin / 2 + thread(); 2 * pair < begin + length; pair += threads()) {
        double both[2];
        normal_pair(p.key, p.stream + (u64)k, pair, both[0], both[1]);
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
    // Add the upper half to the lower until one element is left, for any number of threads.
    for (int left = threads(); left > 1; left = (left + 1) / 2) {
        int half = (left + 1) / 2;
        if (thread() + half < left) squares[thread()] += squares[thread() + half];
        sync_block();
    }
    if (thread() == 0) {
        double head = x[0], size = root(squares[0]);
        p.sizes[k * p.p + j] = squares[0] + size * (head < 0 ? -head : head);
        p.signs[k * p.p + j] = head < 0 ? 1 : -1;
        x[0] = (real)(head < 0 ? head - size : head + size);
    }
}
EXPORT(draw_reflectors)

// Write −T of `count` reflectors of frame k, from number `first` on, in block k: T⁻¹ = diag(d) +
// strict upper part of S[k], count × count. Every thread solves columns by back substitution.
KERNEL void invert_factors(BY_VALUE InvertFactors p) {
    const int count = p.count;
    real* S = (real*)shared_memory();
    real* solved = S + count * count;
    i64 k = block();
    for (int i = thread(); i < count * count; i += threads()) S[i] = p.S[k * count * count + i];
    sync_block();
    for (int c = thread(); c < count; c += threads()) {
        for (int i = count - 1; i >= 0; i--) {
            real sum = i == c ? -1 : 0;
            for (int m = i + 1; m <= c; m++) sum -= S[i * count + m] * solved[m * count + c];
            solved[i * count + c] = i <= c ? (real)(sum / p.sizes[k * p.p + p.first + i]) : 0;
        }
    }
    sync_block();
    real* T = p.T + k * count * count;
    for (int i = thread(); i < count * count; i += threads()) T[i] = solved[i];
}
EXPORT(invert_factors)
