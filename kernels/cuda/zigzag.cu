// Gradient descent by zigzag passes: every layer crosses memory once per step.
//
// With prefix products A_l = W_l ··· W_1, suffix products B_l = W_L ··· W_{l+1} and G = dl/dM, the
// gradient of layer l is B_l^T C_{l-1} with the co-states C_l = G A_l^T. A down pass knows all A(t)
// and forms B(t) and B(t+1): it loads a layer once, to multiply by it, take its step and multiply
// by the new weights. It stores all B(t+1) and ends with M(t+1); the up pass that follows knows all
// B, and forms C(t) and A(t+1). One body implements both, with the roles of rows and columns
// exchanged; if D < Q, the roles of A and B are exchanged, too.
//
// A block (or a group of blocks) trains one network. In a layer a thread owns TILE outputs, columns
// of the layer in a down pass and rows in an up pass, and reads every `splits`-th tile of the sum's
// terms with all products of its own outputs in registers; partial sums are added up through shared
// memory.
//
// A group of `parts` times `columns` blocks shares a layer in both directions: a block has one part
// of the outputs and one of the sum's terms. With one part, blocks exchange whole products, and
// each reads all of them for the next layer. With more, the blocks of the same outputs first add up
// their partial sums, and each then reads only its part of the result: one more wait, but wide
// products need not pass through the second-level cache for every block, nor fit its shared memory.
//
// Blocks of a group with one warp group are idle while they wait for each other. Therefore a block
// may have two warp groups: one carries the chain of time t and updates the weights; the other, one
// layer behind, carries the chain of t+1. Each works while the other waits.
//
// Compile-time constants: REAL, Q rows and D columns of M, STAGES and PARTS_AT_ONCE (see team.py),
// VELOCITY (0, 1: momentum), GROUPED (0: one block per network), WARP_GROUPS (1; 2 in a group of
// blocks).

// Begin a pass: set the products of t+1 to the identity, also stored for the next pass, and the
// products of time t to the identity or the co-state to G.
template <bool DOWN>
DEVICE void begin_pass(const Block& b, bool moving) {
    constexpr int P = NEXT_LENGTH<DOWN>;
    constexpr int tiles = vectors(P);
    const i64* row = b.layers + (i64)(DOWN ? b.depth - 1 : 0) * LayerColumn::COUNT;
    real* slots = b.slots + row[DOWN ? LayerColumn::SLOT_ABOVE : LayerColumn::SLOT_BELOW];
    int first, own;
    partition(tiles, b.part, b.parts, first, own);
    for (int n = thread(); n < tiles * TILE; n += threads()) {
        real* slot = slots + (n % TILE * tiles + n / TILE) * SLOT;
        int tile = n / TILE - first;
        i64 at = 0 <= tile && tile < own ? n % TILE * own + tile : -1;
        UNROLL for (int k = 0; k < tiles; k++) {
            Vector one = zeros();
            UNROLL for (int i = 0; i < TILE; i++) one.x[i] = n < P && n == k * TILE + i ? 1 : 0;
            if (b.member == 0) store16(slot + k * TILE, &one);
            if (at >= 0) store(b.next_products + at * pitch(P) + k * TILE, one);
            if (at >= 0 && TO_NARROW<DOWN>) store(b.products + at * pitch(NARROW) + k * TILE, one);
        }
        if (TO_NARROW<DOWN> || at < 0) continue;
        UNROLL for (int k = 0; k < vectors(NARROW); k++) {
            Vector g = moving && n < P ? load(b.gradient + n * pitch(NARROW) + k * TILE) : zeros();
            store(b.products + at * pitch(NARROW) + k * TILE, g);
        }
    }
}

// Wait for the copies requested before a layer, but not for the `count` tiles requested after them.
DEVICE void wait_for_known(int count) {
    static_assert(STAGES == 4, "a case for every number of groups in flight");
    if (count == 0) {
        wait_copies<0>();
    } else if (count == 1) {
        wait_copies<1>();
    } else if (count == 2) {
        wait_copies<2>();
    } else {
        wait_copies<STAGES - 1>();
    }
}

// Named-barrier ids, alternating with the layer's parity: MOVED = tiles written, USED = tiles read.
enum { MOVED = 3, USED = 5 };

// Update every layer once, with one of the chains or both. Without `moving`, form only products and
// do not change the weights.
template <bool DOWN, int CHAINS>
DEVICE void update_layers(Block& b, Slice slice, bool moving) {
    const int begin = DOWN ? b.depth - 1 : 0, end = DOWN ? -1 : b.depth, way = DOWN ? -1 : 1;
    const int own_barrier = CHAINS == CURRENT ? MOVED : USED;
    const int other_barrier = CHAINS == CURRENT ? USED : MOVED;
    WeightRing<DOWN> ring;
    if (CHAINS & CURRENT) {
        ring.start(b);
        for (int i = 0; i < STAGES - 1; i++) ring.prefetch(b);
    }
    int stage = 0;
    for (int layer = begin, done = 0; layer != end; layer += way, done++) {
        const bool more = moving && layer + way != end;
        const i64* row = b.layers + (i64)layer * LayerColumn::COUNT;
        real* slots = b.slots + row[DOWN ? LayerColumn::SLOT_BELOW : LayerColumn::SLOT_ABOVE];
        Slice next = slice;
        Sums<DOWN> s;
        begin_sums<DOWN, CHAINS>(b, slice, s, moving);
        if (layer + way != end) next = slice_after<DOWN>(b, slice, layer + way);
        if (!GROUPED && more) prefetch_known<DOWN>(b, layer + way, next);
        if (!GROUPED) commit_copies();
        // The ring has free stages for this layer's tiles once the other warp group has read the
        // tiles of two layers before.
        const bool waits = CHAINS == NEXT || (CHAINS == CURRENT && done >= 2);
        if (waits) named_barrier_sync(other_barrier + done % 2, threads());
        update_tiles<DOWN, CHAINS>(b, ring, stage, slice, s, layer, moving);
        if (WARP_GROUPS == 2) named_barrier_arrive(own_barrier + done % 2, threads());
        if (!GROUPED) wait_for_known(slice.count);
        if (GROUPED && WARP_GROUPS == 1) sync_block();  // partial sums overwrite the products
        if (slice.count) store_partial_sums<DOWN, CHAINS>(b, slice, s);
        sync_warp_group();
        reduce_threads<DOWN, CHAINS>(b, slice, slots);
        if (CHAINS & CURRENT && more) form_factors<DOWN>(b, layer + way, next);
        if (GROUPED) exchange_products<DOWN, CHAINS>(b, slice, next, slots, layer + way == end);
        slice = next;
        sync_warp_group();
    }
    if (CHAINS & CURRENT) wait_copies<0>();
    if (CHAINS == CURRENT) {  // consume the other warp group's arrivals for the last two layers
        for (int done = b.depth > 2 ? b.depth : 2; done < b.depth + 2; done++) {
            named_barrier_sync(other_barrier + done % 2, threads());
        }
    }
}

template <bool DOWN>
DEVICE void pass(Block& b, bool moving) {
    const int begin = DOWN ? b.depth - 1 : 0;
    begin_pass<DOWN>(b, moving);
    Slice slice = slice_of<DOWN>(b, begin);
    if (moving) {
        if (!GROUPED) prefetch_known<DOWN>(b, begin, slice);
        commit_copies();
        wait_copies<0>();
        sync_block();
        if (warp_group() == 0) form_factors<DOWN>(b, begin, slice);
    }
    sync_block();
    if (WARP_GROUPS == 1) {
        update_layers<DOWN, BOTH>(b, slice, moving);
    } else if (warp_group() == 0) {
        update_layers<DOWN, CURRENT>(b, slice, moving);
    } else {
        update_layers<DOWN, NEXT>(b, slice, moving);
    }
}

// Return element (a, k) of M as formed by the last pass.
DEVICE real end_to_end_element(const Block& b, bool down, int a, int k) {
    int n = down ? k : a, p = down ? a : k, tiles = vectors(down ? D : Q);
    return b.next_products[(n % TILE * tiles + n / TILE) * (down ? pitch(Q) : pitch(D)) + p];
}

// Store M as the state of this block: every block of a group has its own copy.
DEVICE void store_end_to_end(const Block& b, i64 state, bool down) {
    for (int i = thread(); i < Q * D; i += threads()) {
        b.end_to_end[state * Q * D + i] = end_to_end_element(b, down, i / D, i % D);
    }
}

// Set element (a, k) of G, which is stored with its narrower side contiguous.
DEVICE void set_gradient(const Block& b, int a, int k, real g) {
    b.gradient[Q <= D ? k * pitch(NARROW) + a : a * pitch(NARROW) + k] = g;
}

// Return the loss at M, as stored by the last pass or an earlier launch, and set G.
DEVICE double evaluate(const Block& b, const TrainNetworks& p, i64 state, i64 problem,
                       double constant) {
    const real* M = b.end_to_end + state * Q * D;
    const double *scale = p.scale + problem * Q * D, *target = p.target + problem * Q * D;
    for (int part = thread(); part < LOSS_PARTS; part += threads()) {
        double total = 0;
        for (int i = part; i < Q * D; i += LOSS_PARTS) {
            double r = exact_add(exact_mul((double)M[i], scale[i]), -target[i]);
            total = exact_add(total, exact_mul(r, r));
            set_gradient(b, i / D, i % D, (real)exact_mul(r, scale[i]));
        }
        b.loss_parts[part] = total;
    }
    sync_block();
    double total = 0;
    for (int part = 0; part < LOSS_PARTS; part++) total = exact_add(total, b.loss_parts[part]);
    return exact_add(constant, exact_mul(0.5, total));
}

// Set G to its unbiased estimate from the samples with these indices; a sample is a row of D inputs
// and Q outputs.
DEVICE void estimate_gradient(const Block& b, const TrainNetworks& p, i64 state,
                              const int* indices) {
    const real* M = b.end_to_end + state * Q * D;
    const int size = p.batch_size;
    double* residuals = (double*)b.partial;
    double* sums = residuals + Q * MINIBATCH_CHUNK;
    for (int first = 0; first < size; first += MINIBATCH_CHUNK) {
        const int chunk = size - first < MINIBATCH_CHUNK ? size - first : MINIBATCH_CHUNK;
        for (int i = thread(); i < Q * chunk; i += threads()) {
            const int a = i % Q, j = i / Q;
            const double* x = p.samples + (i64)indices[first + j] * (D + Q);
            double r = -x[D + a];
            for (int k = 0; k < D; k++) r += (double)M[a * D + k] * x[k];
            residuals[a * MINIBATCH_CHUNK + j] = r;
        }
        sync_block();
        for (int i = thread(); i < Q * D; i += threads()) {
            double g = first ? sums[i] : 0;
            for (int j = 0; j < chunk; j++) {
                const double* x = p.samples + (i64)indices[first + j] * (D + Q);
                g += residuals[i / D * MINIBATCH_CHUNK + j] * x[i % D];
            }
            sums[i] = g;
        }
        sync_block();
    }
    const double weight = (double)p.sample_count / size;
    for (int i = thread(); i < Q * D; i += threads()) {
        set_gradient(b, i / D, i % D, (real)(sums[i] * weight));
    }
    sync_block();
}

// Divide shared memory according to `SharedLayout`. In a group of blocks with one warp group, the
// partial sums and the products share memory: they are never used at the same time.
DEVICE void set_shared_arrays(Block& b, const SharedLayout& at) {
    char* bytes = shared_memory();
    b.products = (real*)(bytes + at.products);
    b.next_products = (real*)(bytes + at.next_products);
    b.partial = (real*)(bytes + at.partial);
    b.next_partial = (real*)(bytes + at.next_partial);
    b.known = (real*)(bytes + at.known);
    b.factors = (real*)(bytes + at.factors);
    b.gradient = (real*)(bytes + at.gradient);
    b.ring = (real*)(bytes + at.ring);
    b.loss_parts = (double*)(bytes + at.loss_parts);
}

// Return this block's `Block` for the network in row `index` of the tables.
DEVICE Block block_of(const TrainNetworks& p, int index) {
    const i64* network = p.networks + (i64)index * NetworkColumn::COUNT;
    const double* constants = p.constants + (i64)index * NetworkConstant::COUNT;
    Block b;
    b.weights = p.weights;
    b.velocity = p.velocity;
    b.slots = p.slots;
    b.end_to_end = p.end_to_end;
    b.layers = p.layers + network[NetworkColumn::LAYERS] * LayerColumn::COUNT;
    b.step_sizes = p.step_sizes + network[NetworkColumn::LAYERS];
    b.weight_decays = p.weight_decays + network[NetworkColumn::LAYERS];
    b.depth = (int)network[NetworkColumn::DEPTH];
    b.member = block() % p.group;
    b.parts = p.parts;
    b.columns = p.group / p.parts;
    b.part = b.member / b.columns;
    b.column = b.member % b.columns;
    b.widest = p.widest;
    b.stages = WARP_GROUPS == 1 ? STAGES : p.stages;
    b.nesterov = p.nesterov;
    b.decay = (real)constants[NetworkConstant::DECAY];
    b.momentum = (real)constants[NetworkConstant::MOMENTUM];
    b.exchange =
        p.exchange + index * (p.parts > 1 ? 2 + 2 * p.parts : 2) * exchange_size(p.widest);
    b.partial_exchange = b.exchange + 2 * exchange_size(p.widest);
    b.barrier = p.barriers + (i64)index * p.barrier_stride;
    b.barrier_goal = 0;
    b.updates = 0;
    set_shared_arrays(b, p.shared);
    return b;
}

// The progress of a launch with its network.
struct Progress {
    i64 state, goal, first, step;
    u64 begun;
    double floor;  // loss at or below which the network has converged
    bool floor_known;
    double* losses;
};

// Record the loss, set G for the next step, and return whether to take the step.
DEVICE bool evaluate_step(const Block& b, const TrainNetworks& p, const i64* network,
                          const double* constants, Progress& at) {
    double* losses = at.losses;
    double loss = evaluate(b, p, at.state, network[NetworkColumn::PROBLEM],
                           constants[NetworkConstant::CONSTANT]);
    if (b.member == 0 && thread() == 0) losses[at.step] = loss;
    if (!at.floor_known) {
        const double own = at.step == 0 ? loss : losses[0];
        const double given = constants[NetworkConstant::FIRST_LOSS];
        at.floor = constants[NetworkConstant::TOLERANCE] * (given == given ? given : own);
    }
    at.floor_known = true;
    // One thread reads the clock for the block, because all its threads must agree. So must the
    // blocks of a group, which therefore ignore the clock.
    if (thread() == 0) b.loss_parts[LOSS_PARTS] = (double)(nanoseconds() - at.begun);
    sync_block();
    bool late = p.group == 1 && at.step > at.first &&
                b.loss_parts[LOSS_PARTS] >= (double)p.nanoseconds;
    if (at.step >= at.goal || !is_finite(loss) || !(loss > at.floor) || late) {
        return false;
    }
    if (p.batch_size) {
        const i64 from = network[NetworkColumn::BATCHES] +
                         (at.step - network[NetworkColumn::FIRST_BATCH]) * p.batch_size;
        estimate_gradient(b, p, at.state, p.batches + from);
    }
    return true;
}

// Set G to the gradient that the host provides, and return whether to take a step.
DEVICE bool read_gradient(const Block& b, const TrainNetworks& p, const i64* network, i64 step) {
    for (int i = thread(); i < Q * D; i += threads()) {
        set_gradient(b, i / D, i % D, p.gradients[network[NetworkColumn::STATE] * Q * D + i]);
    }
    if (step >= network[NetworkColumn::GOAL]) return false;
    sync_block();
    return true;
}

// Advance every network of the table to its goal, or until it converges, diverges or exceeds the
// given nanoseconds, but by at least one step. With `external` gradients there is no loss, and the
// goal is the next step.
//
// With minibatches, `samples` has `sample_count` rows of one sample each, and `batches` has
// `batch_size` indices for each step from FIRST_BATCH on; a `batch_size` of 0 means full batch.
//
// Row i of `networks` belongs to blocks i·group to (i+1)·group - 1; `end_to_end` has Q·D elements
// per block. `exchange` and `barriers` must be zero; networks' counters are `barrier_stride` apart.
KERNEL void train_networks(BY_VALUE TrainNetworks p) {
    const int index = block() / p.group;
    const i64* network = p.networks + (i64)index * NetworkColumn::COUNT;
    const double* constants = p.constants + (i64)index * NetworkConstant::COUNT;
    Block b = block_of(p, index);
    Progress at;
    at.state = network[NetworkColumn::STATE] * p.group + b.member;
    at.goal = network[NetworkColumn::GOAL];
    at.losses = p.losses + network[NetworkColumn::LOSSES];
    at.begun = nanoseconds();
    at.step = p.steps[at.state];
    if (at.step < 0) {
        pass<false>(b, false);
        store_end_to_end(b, at.state, false);
        at.step = 0;
        sync_block();
    } else if (at.step >= at.goal) {
        return;
    }
    at.first = at.step;
    at.floor = 0;
    at.floor_known = false;
    while (p.external ? read_gradient(b, p, network, at.step)
                      : evaluate_step(b, p, network, constants, at)) {
        bool down = at.step % 2 == 0;
        if (down) {
            pass<true>(b, true);
        } else {
            pass<false>(b, true);
        }
        store_end_to_end(b, at.state, down);
        at.step++;
        sync_block();
    }
    if (thread() == 0) p.steps[at.state] = at.step;
}
EXPORT(train_networks)
