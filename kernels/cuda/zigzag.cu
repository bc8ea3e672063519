// Gradient descent by zigzag sweeps: every layer crosses memory once per step.
//
// With prefix products A_l = W_l ··· W_1, suffix products B_l = W_L ··· W_{l+1} and G = dl/dM, the
// gradient of layer l is B_l^T C_{l-1} with the co-states C_l = G A_l^T. A sweep down the chain
// knows all A(t) and carries B(t) and B(t+1): it visits a layer once, to multiply by it, move it
// and multiply by what it has become. It leaves all B(t+1) and ends at M(t+1); the next sweep
// goes up, knows all B, and carries C(t) and A(t+1). So one body does both, with the roles of rows
// and columns exchanged; where D < Q, those of A and B too.
//
// A block (or a group of blocks) has one network. In a visit a thread owns TILE outputs, columns
// of the layer on the way down and rows on the way up, and goes through every `splits`-th tile of
// the sum's terms with all products of its own outputs in registers; partial sums meet in shared
// memory.
//
// A group of `parts` times `columns` blocks shares a layer in both directions: a block has one
// part of the outputs and one of the sum's terms. With one part, blocks hand each other whole
// products, and each reads all of them for the next visit. With more, the blocks of the same
// outputs first add up their shares, and each then reads only its part of what comes out: a wait
// more, but wide products neither cross the second-level cache for every block nor need fit its
// shared memory.
//
// While a group's blocks wait for each other they would do nothing. So a block may have two crews of
// threads. One carries what is of time t and moves the weights; a layer behind, the other carries
// what is of t+1: each works while the other waits.
//
// Compiled for: REAL, Q rows and D columns of M, STAGES, AT_ONCE (shares of a sum asked for at
// once), VELOCITY (0, 1: momentum), GROUPED (0: one block a network), CREWS (1, 2: of a group).

// Where a sweep starts, the products of t+1 are the identity, which stays there for the sweep back;
// of time t it carries the identity too, or G.
template <bool DOWN>
DEVICE void start(const Block& b, bool moving) {
    constexpr int P = AFTER<DOWN>;
    constexpr int tiles = vectors(P);
    const i64* row = b.layers + (i64)(DOWN ? b.depth - 1 : 0) * LAYER_FIELDS;
    real* slots = b.at.slots + row[DOWN ? SLOT_ABOVE : SLOT_BELOW];
    int first, own;
    share(tiles, b.part, b.parts, first, own);
    for (int n = thread(); n < tiles * TILE; n += threads()) {
        real* slot = slots + (n % TILE * tiles + n / TILE) * SLOT;
        int tile = n / TILE - first;
        i64 at = 0 <= tile && tile < own ? n % TILE * own + tile : -1;
        UNROLL for (int k = 0; k < tiles; k++) {
            Vector one = zeros();
            UNROLL for (int i = 0; i < TILE; i++) one.x[i] = n < P && n == k * TILE + i ? 1 : 0;
            if (b.member == 0) store16(slot + k * TILE, &one);
            if (at >= 0) store(b.V + after_in(b.held) + at * pitch(P) + k * TILE, one);
            if (at >= 0 && TO_NARROW<DOWN>) store(b.V + at * pitch(NARROW) + k * TILE, one);
        }
        if (TO_NARROW<DOWN> || at < 0) continue;
        UNROLL for (int k = 0; k < vectors(NARROW); k++) {
            Vector g = moving && n < P ? load(b.G + n * pitch(NARROW) + k * TILE) : zeros();
            store(b.V + at * pitch(NARROW) + k * TILE, g);
        }
    }
}

// Wait for what was asked for before a visit, but not for the `count` tiles asked for since.
DEVICE void wait_but_for(int count) {
    static_assert(STAGES == 4, "so many groups of copies are told apart here");
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

// Where one crew tells the other of every second layer that its tiles have been moved, or used.
enum { MOVED = 3, USED = 5 };

// Visit every layer once, with one of the chains or both. Without `moving` the weights stay, and
// only products are formed.
template <bool DOWN, int CHAINS>
DEVICE void follow(Block& b, Part part, bool moving) {
    const int begin = DOWN ? b.depth - 1 : 0, end = DOWN ? -1 : b.depth, way = DOWN ? -1 : 1;
    const int told = CHAINS == OLD ? MOVED : USED, heard = CHAINS == OLD ? USED : MOVED;
    Stream<DOWN> stream;
    if (CHAINS & OLD) {
        stream.start(b);
        for (int i = 0; i < STAGES - 1; i++) stream.fetch(b);
    }
    int slot = 0;
    for (int layer = begin, visit = 0; layer != end; layer += way, visit++) {
        const bool more = moving && layer + way != end;
        const i64* row = b.layers + (i64)layer * LAYER_FIELDS;
        real* slots = b.at.slots + row[DOWN ? SLOT_BELOW : SLOT_ABOVE];
        Part next = part;
        Sums<DOWN> s;
        begin_sums<DOWN, CHAINS>(b, part, s, moving);
        if (layer + way != end) next = part_after<DOWN>(b, part, layer + way);
        if (!GROUPED && more) ask_for_met<DOWN>(b, layer + way, next);
        if (!GROUPED) commit_copies();
        // The ring has room for this layer's tiles once those of two layers ago have been used.
        const bool waits = CHAINS == NEW || (CHAINS == OLD && visit >= 2);
        if (waits) sync_at(heard + visit % 2, threads());
        go_through<DOWN, CHAINS>(b, stream, slot, part, s, b.rates[layer],
                                 VELOCITY ? b.pulls[layer] : (real)0, moving);
        if (CREWS == 2) come_to(told + visit % 2, threads());
        if (!GROUPED) wait_but_for(part.count);
        if (GROUPED && CREWS == 1) sync_block();  // partial sums lie where the products are
        if (part.count) leave_partial_sums<DOWN, CHAINS>(b, part, s);
        sync_crew();
        gather<DOWN, CHAINS>(b, part, slots);
        if (CHAINS & OLD && more) form_factors<DOWN>(b, layer + way, next);
        if (GROUPED) take_over<DOWN, CHAINS>(b, part, next, slots, layer + way == end);
        part = next;
        sync_crew();
    }
    if (CHAINS & OLD) wait_copies<0>();
    if (CHAINS == OLD) {  // what the other crew told of the last two layers
        for (int visit = b.depth > 2 ? b.depth : 2; visit < b.depth + 2; visit++) {
            sync_at(heard + visit % 2, threads());
        }
    }
}

template <bool DOWN>
DEVICE void sweep(Block& b, bool moving) {
    const int begin = DOWN ? b.depth - 1 : 0;
    start<DOWN>(b, moving);
    Part part = part_of<DOWN>(b, begin);
    if (moving) {
        if (!GROUPED) ask_for_met<DOWN>(b, begin, part);
        commit_copies();
        wait_copies<0>();
        sync_block();
        if (crew() == 0) form_factors<DOWN>(b, begin, part);
    }
    sync_block();
    if (CREWS == 1) {
        follow<DOWN, BOTH>(b, part, moving);
    } else if (crew() == 0) {
        follow<DOWN, OLD>(b, part, moving);
    } else {
        follow<DOWN, NEW>(b, part, moving);
    }
}

// M as the last sweep left it, in the order of rows.
DEVICE real end_to_end(const Block& b, bool down, int a, int k) {
    int n = down ? k : a, p = down ? a : k, tiles = vectors(down ? D : Q);
    const real* M = b.V + after_in(b.held);
    return M[(n % TILE * tiles + n / TILE) * (down ? pitch(Q) : pitch(D)) + p];
}

// G lies along its wider side.
DEVICE void put_gradient(const Block& b, int a, int k, real g) {
    b.G[Q <= D ? k * pitch(NARROW) + a : a * pitch(NARROW) + k] = g;
}

// Return the loss at M and leave G; M comes from the state that earlier launches left.
DEVICE double evaluate(const Block& b, i64 state, i64 problem, double constant) {
    const real* M = b.at.ends + state * Q * D;
    const double *scale = b.at.scale + problem * Q * D, *target = b.at.target + problem * Q * D;
    for (int part = thread(); part < PARTS; part += threads()) {
        double total = 0;
        for (int i = part; i < Q * D; i += PARTS) {
            double r = exact_add(exact_mul((double)M[i], scale[i]), -target[i]);
            total = exact_add(total, exact_mul(r, r));
            put_gradient(b, i / D, i % D, (real)exact_mul(r, scale[i]));
        }
        b.sums[part] = total;
    }
    sync_block();
    double total = 0;
    for (int part = 0; part < PARTS; part++) total = exact_add(total, b.sums[part]);
    return exact_add(constant, exact_mul(0.5, total));
}

// Leave the gradient's unbiased estimate from the samples of these indices: rows of D inputs and Q
// outputs, of which there are `count`.
DEVICE void take_minibatch(const Block& b, i64 state, const int* indices, int size, i64 count) {
    const real* M = b.at.ends + state * Q * D;
    double* residuals = (double*)b.partial;
    double* sums = residuals + Q * AT_A_TIME;
    for (int first = 0; first < size; first += AT_A_TIME) {
        const int some = size - first < AT_A_TIME ? size - first : AT_A_TIME;
        for (int i = thread(); i < Q * some; i += threads()) {
            const int a = i % Q, j = i / Q;
            const double* x = b.at.samples + (i64)indices[first + j] * (D + Q);
            double r = -x[D + a];
            for (int k = 0; k < D; k++) r += (double)M[a * D + k] * x[k];
            residuals[a * AT_A_TIME + j] = r;
        }
        sync_block();
        for (int i = thread(); i < Q * D; i += threads()) {
            double g = first ? sums[i] : 0;
            for (int j = 0; j < some; j++) {
                const double* x = b.at.samples + (i64)indices[first + j] * (D + Q);
                g += residuals[i / D * AT_A_TIME + j] * x[i % D];
            }
            sums[i] = g;
        }
        sync_block();
    }
    const double weight = (double)count / size;
    for (int i = thread(); i < Q * D; i += threads()) {
        put_gradient(b, i / D, i % D, (real)(sums[i] * weight));
    }
    sync_block();
}

// Every block of a group writes the same values to its own M: `ends` has one for each.
DEVICE void keep_end(const Block& b, i64 state, bool down) {
    for (int i = thread(); i < Q * D; i += threads()) {
        b.at.ends[state * Q * D + i] = end_to_end(b, down, i / D, i % D);
    }
}

DEVICE void carve(Block& b, int own) {
    real* at = (real*)shared_memory();
    i64 products = room(b.held);
    i64 before = (i64)workers() * TILE * (pitch(NARROW) + 1);
    i64 partial = before + (i64)workers() * TILE * (pitch(WIDE) + 1);
    const i64 minibatch = Q * (D + AT_A_TIME) * (i64)(sizeof(double) / sizeof(real));
    if (partial < minibatch) partial = (minibatch + TILE - 1) / TILE * TILE;
    b.V = at;
    // While a group's block has partial sums, its crew needs no products.
    const bool shared = GROUPED && CREWS == 1;
    b.partial = shared ? at : at + products;
    b.partial_after = b.partial + before;
    at += shared ? (products > partial ? products : partial) : products + partial;
    b.X = at;
    at += GROUPED ? 0 : (i64)own * TILE * SLOT;
    b.U = at;
    at += (i64)own * TILE * pitch(NARROW);
    b.G = at;
    at += WIDE * pitch(NARROW);
    b.ring = at;
    at += (i64)b.stages * (1 + VELOCITY) * TILE * workers() * TILE;
    b.sums = (double*)at;
}

// Advance every network of the table to its goal, or until it converges, diverges or has used
// `budget` nanoseconds, but by a step at least. With `external` gradients there is no loss, and
// the goal is the next step.
//
// With minibatches, `samples` has one in each of `count` rows, and `batches` the indices of `size` for
// each step from FIRST_BATCH on; a `size` of 0 means all samples.
//
// Row i of `networks` is done by blocks i·group and on; `ends` has Q·D numbers for each block.
// `exchange` and `meetings` are zero; of these, counters of two networks are `apart`.
// In shared memory a block has room for `held` tiles of products and `own` tiles of outputs and, with
// two crews, for `stages` tiles of weights of each of a crew's threads.
KERNEL void train_networks(const i64* networks, const double* numbers, const i64* layers,
                           real* weights, real* velocity, const real* rates, const real* pulls,
                           real* slots, real* ends, const real* gradients, const double* scale,
                           const double* target, const double* samples, const int* batches,
                           double* losses, i64* steps, real* exchange, u32* meetings, i64 count,
                           int size, int group, int parts, int apart, int widest, int held, int own,
                           int stages, int nesterov, int external, i64 budget) {
    const int index = block() / group, member = block() % group;
    const i64* network = networks + (i64)index * NETWORK_FIELDS;
    const double* number = numbers + (i64)index * NUMBER_FIELDS;
    Block b;
    b.at = Pointers{weights, velocity, slots, ends, scale, target, samples};
    b.layers = layers + network[LAYERS] * LAYER_FIELDS;
    b.rates = rates + network[LAYERS];
    b.pulls = pulls + network[LAYERS];
    b.depth = (int)network[DEPTH];
    b.member = member;
    b.parts = parts;
    b.columns = group / parts;
    b.part = member / b.columns;
    b.column = member % b.columns;
    b.widest = widest;
    b.held = held;
    b.stages = CREWS == 1 ? STAGES : stages;
    b.nesterov = nesterov;
    b.decay = (real)number[DECAY];
    b.momentum = (real)number[MOMENTUM];
    b.exchange = exchange + index * (parts > 1 ? 2 + 2 * parts : 2) * handed(widest);
    b.shares = b.exchange + 2 * handed(widest);
    b.meeting = meetings + (i64)index * apart;
    b.due = 0;
    b.visits = 0;
    carve(b, own);
    const i64 state = network[STATE] * group + member, goal = network[GOAL];
    double* recorded = losses + network[LOSSES];
    const u64 begun = nanoseconds();
    i64 step = steps[state];
    if (step < 0) {
        sweep<false>(b, false);
        keep_end(b, state, false);
        step = 0;
        sync_block();
    } else if (step >= goal) {
        return;
    }
    const i64 first = step;
    double floor = 0;
    bool known = false;
    while (true) {
        if (external) {
            for (int i = thread(); i < Q * D; i += threads()) {
                put_gradient(b, i / D, i % D, gradients[network[STATE] * Q * D + i]);
            }
            if (step >= goal) break;
            sync_block();
        } else {
            double loss = evaluate(b, state, network[PROBLEM], number[CONSTANT]);
            if (member == 0 && thread() == 0) recorded[step] = loss;
            if (!known) {
                const double own = step == 0 ? loss : recorded[0], given = number[FIRST_LOSS];
                floor = number[TOLERANCE] * (given == given ? given : own);
            }
            known = true;
            // One thread reads the clock for all: they must agree, and so must a group's blocks.
            if (thread() == 0) b.sums[PARTS] = (double)(nanoseconds() - begun);
            sync_block();
            bool late = group == 1 && step > first && b.sums[PARTS] >= (double)budget;
            if (step >= goal || !is_finite(loss) || !(loss > floor) || late) break;
            if (size) {
                const i64 from = network[BATCHES] + (step - network[FIRST_BATCH]) * size;
                take_minibatch(b, state, batches + from, size, count);
            }
        }
        bool down = step % 2 == 0;
        if (down) {
            sweep<true>(b, true);
        } else {
            sweep<false>(b, true);
        }
        keep_end(b, state, down);
        step++;
        sync_block();
    }
    if (thread() == 0) steps[state] = step;
}
EXPORT(train_networks)
