// The two-pass step, one kernel per layer and pass, for any shapes: the baseline that zigzag is checked
// against, and what trains networks with more than 32 inputs and outputs.
//
// Buffers lie as in kernels/cpu/layout.py: products have Q rows, the rows of M. Every kernel looks
// at `state` first (STEP, ACTIVE): steps are queued ahead, and once the loss has converged or
// diverged those that are left do nothing.

enum { STEP, ACTIVE };
// Columns of a block: whole sectors of memory, and blocks enough for the card. Rows of the products
// that a thread sums at once: as many as its registers hold, for each chunk reads the weights again.
constexpr int COLUMNS_AT_ONCE = 8, ROWS_AT_ONCE = 4, CHUNK = 64 / (int)sizeof(real);

// below = above · W: W is rows × columns, above q × rows, below q × columns. A block has some columns
// and CHUNK rows of the products; its threads split the rows of W.
KERNEL void multiply_layer(const i64* state, const real* W, const real* above, real* below, int q,
                           int rows, int columns, i64 stride, i64 above_stride, i64 below_stride) {
    if (!state[ACTIVE]) return;
    real* parts = (real*)shared_memory();
    int column = block() * COLUMNS_AT_ONCE + thread() % COLUMNS_AT_ONCE;
    int split = thread() / COLUMNS_AT_ONCE, splits = threads() / COLUMNS_AT_ONCE;
    int first = block_y() * CHUNK;
    real sums[CHUNK];
    UNROLL for (int a = 0; a < CHUNK; a++) sums[a] = 0;
    if (column < columns) {
        for (int r = split; r < rows; r += splits) {
            real w = W[r * stride + column];
            UNROLL for (int a = 0; a < CHUNK; a++) {
                if (first + a < q) sums[a] += above[(first + a) * above_stride + r] * w;
            }
        }
    }
    UNROLL for (int a = 0; a < CHUNK; a++) parts[a * threads() + thread()] = sums[a];
    sync_block();
    for (int item = thread(); item < CHUNK * COLUMNS_AT_ONCE; item += threads()) {
        int a = item / COLUMNS_AT_ONCE, c = item % COLUMNS_AT_ONCE;
        real sum = 0;
        for (int i = 0; i < splits; i++) sum += parts[a * threads() + i * COLUMNS_AT_ONCE + c];
        int to = block() * COLUMNS_AT_ONCE + c;
        if (first + a < q && to < columns) below[(first + a) * below_stride + to] = sum;
    }
}
EXPORT(multiply_layer)

// M, the product that ends at layer 1 (or the last layer itself).
KERNEL void copy_rows(const i64* state, const real* from, real* to, int rows, int columns,
                      i64 from_stride, i64 to_stride) {
    if (!state[ACTIVE]) return;
    for (int i = block() * threads() + thread(); i < rows * columns; i += blocks() * threads()) {
        to[i / columns * to_stride + i % columns] = from[i / columns * from_stride + i % columns];
    }
}
EXPORT(copy_rows)

constexpr real BETA_1 = (real)0.9, BETA_2 = (real)0.999;

// How one number moves: gradient descent, with a velocity, or Adam; see rules.py for the formulas.
struct Rule {
    int kind, nesterov;  // 0: plain, 1: velocity, 2: Adam
    real rate, pull, decay, momentum, scale, first, second;
};

DEVICE void move(real& w, real g, real* state_1, real* state_2, i64 at, const Rule& rule) {
    if (rule.kind == 0) {
        w = rule.decay * w - rule.rate * g;
    } else if (rule.kind == 1) {
        g += rule.pull * w;
        real speed = rule.momentum * state_1[at] + g;
        state_1[at] = speed;
        w -= rule.rate * (rule.nesterov ? g + rule.momentum * speed : speed);
    } else {
        g = g / rule.scale + rule.pull * rule.scale * w;
        real m = BETA_1 * state_1[at] + (1 - BETA_1) * g;
        real v = BETA_2 * state_2[at] + (1 - BETA_2) * g * g;
        state_1[at] = m;
        state_2[at] = v;
        w -= rule.rate * (m / rule.first) / ((real)root(v / rule.second) + (real)1e-8);
    }
}

// Add up what every thread left in each of CHUNK rows of `parts`, into the first of them.
DEVICE void add_up(real* parts) {
    for (int left = threads(); left > 1; left = (left + 1) / 2) {
        int half = (left + 1) / 2;
        if (thread() + half < left) {
            UNROLL for (int a = 0; a < CHUNK; a++) {
                real* part = parts + a * threads() + thread();
                part[0] += part[half];
            }
        }
        sync_block();
    }
}

// C' = C Wᵀ and then W's step with gradient Bᵀ C, for ROWS_AT_ONCE rows a block. Rates, pulls and
// scales are those of layer number `layer`. C' is left out where `next` is null (the last layer);
// B is the identity there.
KERNEL void update_layer(const i64* state, real* W, const real* B, const real* C, real* next,
                         real* state_1, real* state_2, const real* rates, const real* pulls,
                         const real* scales, const double* constants, int layer, int kind,
                         int nesterov, int q, int rows, int columns, i64 stride, i64 b_stride,
                         i64 c_stride, i64 next_stride) {
    if (!state[ACTIVE]) return;
    real* parts = (real*)shared_memory();
    Rule rule;
    rule.kind = kind, rule.nesterov = nesterov;
    rule.rate = rates[layer], rule.pull = pulls[layer], rule.scale = scales[layer];
    rule.decay = (real)constants[0], rule.momentum = (real)constants[1];
    rule.first = (real)constants[2], rule.second = (real)constants[3];
    const int begin = block() * ROWS_AT_ONCE;
    const int count = begin + ROWS_AT_ONCE < rows ? ROWS_AT_ONCE : rows - begin;
    real* const first_row = W + begin * stride;
    for (int first = 0; next && first < q; first += CHUNK) {
        // What is read of C serves all rows of the block.
        real sums[ROWS_AT_ONCE][CHUNK];
        UNROLL for (int i = 0; i < ROWS_AT_ONCE * CHUNK; i++) sums[i / CHUNK][i % CHUNK] = 0;
        for (int c = thread(); c < columns; c += threads()) {
            real w[ROWS_AT_ONCE];
            UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
                w[r] = r < count ? first_row[r * stride + c] : (real)0;
            }
            UNROLL for (int a = 0; a < CHUNK; a++) {
                real x = first + a < q ? C[(first + a) * c_stride + c] : (real)0;
                UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) sums[r][a] += x * w[r];
            }
        }
        UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
            UNROLL for (int a = 0; a < CHUNK; a++) parts[a * threads() + thread()] = sums[r][a];
            sync_block();
            add_up(parts);
            for (int a = thread(); r < count && a < CHUNK && first + a < q; a += threads()) {
                next[(first + a) * next_stride + begin + r] = parts[a * threads()];
            }
            sync_block();
        }
    }
    for (int c = thread(); c < columns; c += threads()) {
        real g[ROWS_AT_ONCE];
        UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
            g[r] = B || r >= count ? (real)0 : C[(begin + r) * c_stride + c];
        }
        for (int a = 0; B && a < q; a++) {
            const real x = C[a * c_stride + c];
            UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
                if (r < count) g[r] += B[a * b_stride + begin + r] * x;
            }
        }
        UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
            const i64 at = (begin + r) * stride + c;
            if (r < count) move(W[at], g[r], state_1, state_2, at, rule);
        }
    }
}
EXPORT(update_layer)

// The loss at M, the gradient into C, and whether to go on. One block.
//
// `constants` holds the tolerance at [4], the constant part of the loss at [5], and at [6] the loss to
// which the tolerance is relative, or NaN: the first; `limit` is the last step. Adam's corrections 1 − β^t for the step to come are left in [2] and [3].
KERNEL void evaluate_regression(i64* state, const real* M, real* C, const double* scale,
                                const double* target, double* constants, double* losses, int q,
                                int columns, i64 stride, i64 limit) {
    if (!state[ACTIVE]) return;
    double* parts = (double*)shared_memory();
    double total = 0;
    for (int i = thread(); i < q * columns; i += threads()) {
        i64 at = i / columns * stride + i % columns;
        double r = exact_add(exact_mul((double)M[at], scale[i]), -target[i]);
        total = exact_add(total, exact_mul(r, r));
        C[at] = (real)exact_mul(r, scale[i]);
    }
    parts[thread()] = total;
    sync_block();
    for (int left = threads(); left > 1; left = (left + 1) / 2) {
        int half = (left + 1) / 2;
        if (thread() + half < left) {
            parts[thread()] = exact_add(parts[thread()], parts[thread() + half]);
        }
        sync_block();
    }
    if (thread() == 0) {
        i64 step = state[STEP] + 1;
        double loss = exact_add(constants[5], exact_mul(0.5, parts[0]));
        losses[step] = loss;
        state[STEP] = step;
        double first = constants[6];
        double floor = constants[4] * (first == first ? first : losses[0]);
        state[ACTIVE] = step < limit && is_finite(loss) && loss > floor;
        // From 1 - beta^t to 1 - beta^(t+1).
        constants[2] = 1 - (double)BETA_1 * (1 - constants[2]);
        constants[3] = 1 - (double)BETA_2 * (1 - constants[3]);
    }
}
EXPORT(evaluate_regression)
