// The two-pass step, one kernel per layer and pass, for any shapes: the reference for zigzag, and
// the kernels for networks with more than 32 inputs or outputs.
//
// Arrays are laid out as in kernels/cpu/layout.py: products have as many rows as M. Every kernel
// reads `state` first: steps are queued ahead, and once the loss has converged or diverged the
// remaining kernels do nothing.

constexpr int CHUNK = CHUNK_BYTES / (int)sizeof(real);  // product rows that a thread sums at once

// Form below = above · W: W is rows × columns, above q × rows, below q × columns. A block forms
// COLUMNS_AT_ONCE columns and CHUNK rows of the product; its threads divide the rows of W.
KERNEL void multiply_layer(BY_VALUE MultiplyLayer p) {
    if (!p.state[TwoPassState::ACTIVE]) return;
    real* parts = (real*)shared_memory();
    int column = block() * COLUMNS_AT_ONCE + thread() % COLUMNS_AT_ONCE;
    int split = thread() / COLUMNS_AT_ONCE, splits = threads() / COLUMNS_AT_ONCE;
    int first = block_y() * CHUNK;
    real sums[CHUNK];
    UNROLL for (int a = 0; a < CHUNK; a++) sums[a] = 0;
    if (column < p.columns) {
        for (int r = split; r < p.rows; r += splits) {
            real w = p.W[r * p.stride + column];
            UNROLL for (int a = 0; a < CHUNK; a++) {
                if (first + a < p.q) sums[a] += p.above[(first + a) * p.above_stride + r] * w;
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
        if (first + a < p.q && to < p.columns) p.below[(first + a) * p.below_stride + to] = sum;
    }
}
EXPORT(multiply_layer)

// Copy a matrix: the first suffix product is the last layer.
KERNEL void copy_rows(BY_VALUE CopyRows p) {
    if (!p.state[TwoPassState::ACTIVE]) return;
    const int size = p.rows * p.columns;
    for (int i = block() * threads() + thread(); i < size; i += blocks() * threads()) {
        const int row = i / p.columns, column = i % p.columns;
        p.target[row * p.target_stride + column] = p.source[row * p.source_stride + column];
    }
}
EXPORT(copy_rows)

constexpr real FIRST_BETA = (real)BETA_1, SECOND_BETA = (real)BETA_2;

// Constants of a layer's step; fastdln/optim/optimizers.py has the formulas.
struct LayerStep {
    int rule, nesterov;
    real step_size, weight_decay, row_scale, decay, momentum, first_correction, second_correction;
};

DEVICE void take_step(real& w, real g, real* first_state, real* second_state, i64 at,
                      const LayerStep& s) {
    if (s.rule == UpdateRule::PLAIN) {
        w = s.decay * w - s.step_size * g;
    } else if (s.rule == UpdateRule::MOMENTUM) {
        g += s.weight_decay * w;
        real speed = s.momentum * first_state[at] + g;
        first_state[at] = speed;
        w -= s.step_size * (s.nesterov ? g + s.momentum * speed : speed);
    } else {
        g = g / s.row_scale + s.weight_decay * s.row_scale * w;
        real m = FIRST_BETA * first_state[at] + (1 - FIRST_BETA) * g;
        real v = SECOND_BETA * second_state[at] + (1 - SECOND_BETA) * g * g;
        first_state[at] = m;
        second_state[at] = v;
        w -= s.step_size * (m / s.first_correction) /
             ((real)root(v / s.second_correction) + (real)EPSILON);
    }
}

// Add up the elements of all threads in each of CHUNK rows of `parts`, into the first of each row.
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

// Form the block's `count` columns of next_C = C Wᵀ, from row `begin` of W on.
DEVICE void multiply_co_states(const UpdateLayer& p, int begin, int count) {
    real* parts = (real*)shared_memory();
    const real* first_row = p.W + begin * p.stride;
    for (int first = 0; p.next_C && first < p.q; first += CHUNK) {
        // Read every element of C once for all rows of the block.
        real sums[ROWS_AT_ONCE][CHUNK];
        UNROLL for (int i = 0; i < ROWS_AT_ONCE * CHUNK; i++) sums[i / CHUNK][i % CHUNK] = 0;
        for (int c = thread(); c < p.columns; c += threads()) {
            real w[ROWS_AT_ONCE];
            UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
                w[r] = r < count ? first_row[r * p.stride + c] : (real)0;
            }
            UNROLL for (int a = 0; a < CHUNK; a++) {
                real x = first + a < p.q ? p.C[(first + a) * p.C_stride + c] : (real)0;
                UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) sums[r][a] += x * w[r];
            }
        }
        UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
            UNROLL for (int a = 0; a < CHUNK; a++) parts[a * threads() + thread()] = sums[r][a];
            sync_block();
            add_up(parts);
            for (int a = thread(); r < count && a < CHUNK && first + a < p.q; a += threads()) {
                p.next_C[(first + a) * p.next_stride + begin + r] = parts[a * threads()];
            }
            sync_block();
        }
    }
}

// Form next_C = C Wᵀ, then take the step of W with gradient Bᵀ C, for ROWS_AT_ONCE rows per block.
// The constants of the step are those of layer number `layer`. For the last layer there is no
// next_C, and B is the identity.
KERNEL void update_layer(BY_VALUE UpdateLayer p) {
    if (!p.state[TwoPassState::ACTIVE]) return;
    LayerStep step;
    step.rule = p.rule, step.nesterov = p.nesterov;
    step.step_size = p.step_sizes[p.layer], step.weight_decay = p.weight_decays[p.layer];
    step.row_scale = p.row_scales[p.layer];
    step.decay = (real)p.constants[TwoPassConstant::DECAY];
    step.momentum = (real)p.constants[TwoPassConstant::MOMENTUM];
    step.first_correction = (real)p.constants[TwoPassConstant::FIRST_CORRECTION];
    step.second_correction = (real)p.constants[TwoPassConstant::SECOND_CORRECTION];
    const int begin = block() * ROWS_AT_ONCE;
    const int count = begin + ROWS_AT_ONCE < p.rows ? ROWS_AT_ONCE : p.rows - begin;
    multiply_co_states(p, begin, count);
    for (int c = thread(); c < p.columns; c += threads()) {
        real g[ROWS_AT_ONCE];
        UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
            g[r] = p.B || r >= count ? (real)0 : p.C[(begin + r) * p.C_stride + c];
        }
        for (int a = 0; p.B && a < p.q; a++) {
            const real x = p.C[a * p.C_stride + c];
            UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
                if (r < count) g[r] += p.B[a * p.B_stride + begin + r] * x;
            }
        }
        UNROLL for (int r = 0; r < ROWS_AT_ONCE; r++) {
            const i64 at = (begin + r) * p.stride + c;
            if (r < count) take_step(p.W[at], g[r], p.first_state, p.second_state, at, step);
        }
    }
}
EXPORT(update_layer)

// Record the loss at M, write its gradient to C, and decide whether to continue. One block.
KERNEL void evaluate_regression(BY_VALUE EvaluateRegression p) {
    if (!p.state[TwoPassState::ACTIVE]) return;
    double* parts = (double*)shared_memory();
    double total = 0;
    for (int i = thread(); i < p.q * p.columns; i += threads()) {
        i64 at = i / p.columns * p.stride + i % p.columns;
        double r = exact_add(exact_mul((double)p.M[at], p.scale[i]), -p.target[i]);
        total = exact_add(total, exact_mul(r, r));
        p.C[at] = (real)exact_mul(r, p.scale[i]);
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
        double* constants = p.constants;
        i64 step = p.state[TwoPassState::STEP] + 1;
        double loss = exact_add(constants[TwoPassConstant::CONSTANT], exact_mul(0.5, parts[0]));
        p.losses[step] = loss;
        p.state[TwoPassState::STEP] = step;
        double given = constants[TwoPassConstant::FIRST_LOSS];
        double floor =
            constants[TwoPassConstant::TOLERANCE] * (given == given ? given : p.losses[0]);
        p.state[TwoPassState::ACTIVE] = step < p.limit && is_finite(loss) && loss > floor;
        // From 1 - beta^t to 1 - beta^(t+1).
        double &first = constants[TwoPassConstant::FIRST_CORRECTION],
               &second = constants[TwoPassConstant::SECOND_CORRECTION];
        first = 1 - (double)FIRST_BETA * (1 - first);
        second = 1 - (double)SECOND_BETA * (1 - second);
    }
}
EXPORT(evaluate_regression)
